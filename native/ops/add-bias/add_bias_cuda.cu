#include "add_bias.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

template <class T>
void run(const AddBiasArgs& args) {
  const T* x = reinterpret_cast<const T*>(args.x);
  T* out = reinterpret_cast<T*>(args.out);
  each(args.t * args.n, [args, x, out] __device__(int64_t i) { narrow(widen(x[i]) + args.bias[i % args.n], out[i]); });
}

}  // namespace

void add_bias(const AddBiasArgs& args) { args.bf16 ? run<uint16_t>(args) : run<float>(args); }

}  // namespace ops
