#include "silu_mul_backward.h"

#include "../../core/cuda.cuh"

namespace ops {

void silu_mul_backward(const SiluMulBackwardArgs& args) {
  each(args.n, [args] __device__(int64_t i) {
    const float gate = args.gate[i], up = args.up[i], slope = args.dy[i];
    const float e = expf(fminf(-gate, 88.3f));  // no infinity: e·σ would be NaN
    const float sigmoid = 1.0f / (1.0f + e);
    args.d_gate[i] = slope * up * sigmoid * (1.0f + gate * (e * sigmoid));
    args.d_up[i] = slope * gate * sigmoid;
  });
}

}  // namespace ops
