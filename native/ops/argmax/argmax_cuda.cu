#include "argmax.h"

#include "../../core/cuda.cuh"

namespace ops {

namespace {

// One block a row. Of equal values the least index, whatever the order of threads.
__global__ void __launch_bounds__(kThreads) argmax_kernel(ArgmaxArgs args) {
  __shared__ float mosts[kThreads];
  __shared__ int32_t bests[kThreads];
  const float* row = args.x + blockIdx.x * args.v;
  float most = -INFINITY;
  int32_t best = INT32_MAX;  // none yet
  for (int64_t j = threadIdx.x; j < args.v; j += kThreads) {
    if (row[j] > most || (best == INT32_MAX && row[j] == most)) most = row[j], best = static_cast<int32_t>(j);
  }
  mosts[threadIdx.x] = most, bests[threadIdx.x] = best;
  __syncthreads();
  for (int step = kThreads / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) {
      const float other = mosts[threadIdx.x + step];
      const int32_t index = bests[threadIdx.x + step];
      if (other > mosts[threadIdx.x] || (other == mosts[threadIdx.x] && index < bests[threadIdx.x])) {
        mosts[threadIdx.x] = other, bests[threadIdx.x] = index;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) args.out[blockIdx.x] = bests[0] == INT32_MAX ? 0 : bests[0];
}

}  // namespace

void argmax(const ArgmaxArgs& args) {
  if (args.t == 0) return;
  argmax_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
