// defines: ops::log_sum of a row by one block's threads; softmax.h on the CPU.
#pragma once
#include "cuda.cuh"
#include "softmax.h"

namespace ops {

// Valid in every thread. Exponentials in f32, their sum in f64, in a fixed order.
__device__ inline LogSum block_log_sum(const float* x, int64_t n) {
  float most = x[0];
  for (int64_t j = threadIdx.x; j < n; j += blockDim.x) most = fmaxf(most, x[j]);
  most = block_max(most);
  double sum = 0;
  for (int64_t j = threadIdx.x; j < n; j += blockDim.x) sum += expf(x[j] - most);
  sum = block_sum(sum);
  return {most, sum, most + log(sum)};
}

}  // namespace ops
