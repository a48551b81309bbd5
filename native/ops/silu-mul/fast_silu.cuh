// defines: fast_silu, for kernels that do more than a gate.
#pragma once
#include <cuda_runtime.h>

namespace ops {

// The exact quotient has a branch, behind which loads would wait one after the other.
__device__ inline float fast_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

}  // namespace ops
