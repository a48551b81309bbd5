#include "rmsnorm.h"

#include "../../core/cuda.cuh"

namespace ops {

namespace {

// One block a row.
__global__ void __launch_bounds__(kThreads) rmsnorm_kernel(RmsnormArgs args) {
  const int64_t at = blockIdx.x * args.n;
  float sum = 0;
  for (int64_t j = threadIdx.x; j < args.n; j += kThreads) sum = fmaf(args.x[at + j], args.x[at + j], sum);
  const float factor = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(args.n) + args.eps);
  for (int64_t j = threadIdx.x; j < args.n; j += kThreads) args.out[at + j] = args.x[at + j] * factor * args.weight[j];
}

}  // namespace

void rmsnorm(const RmsnormArgs& args) {
  if (args.rows == 0) return;
  rmsnorm_kernel<<<args.rows, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
