#include "silu_mul.h"

#include "../../core/cuda.cuh"

namespace ops {

void silu_mul(const SiluMulArgs& args) {
  each(args.n, [args] __device__(int64_t i) {
    const float gate = args.gate[i];
    args.out[i] = gate / (1.0f + expf(-gate)) * args.up[i];
  });
}

}  // namespace ops
