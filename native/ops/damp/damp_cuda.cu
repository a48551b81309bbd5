#include "damp.h"

#include "../../core/cuda.cuh"

namespace ops {

void damp(const DampArgs& args) {
  Scratch<double> added(1);
  double* const value = added;
  sum(
      args.n, [args] __device__(int64_t i) { return static_cast<double>(args.h[i * args.n + i]); },
      [args, value] __device__(double trace) { *value = args.damp * (trace / static_cast<double>(args.n)); });
  each(args.n * args.n, [args, value] __device__(int64_t e) {
    const bool diagonal = e / args.n == e % args.n;
    args.out[e] = diagonal ? static_cast<float>(args.h[e] + *value) : args.h[e];
  });
}

}  // namespace ops
