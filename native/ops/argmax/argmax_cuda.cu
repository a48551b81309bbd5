#include "argmax.h"

#include "../../core/cuda.cuh"

namespace ops {

namespace {

// A row is a step of decoding, so a block has all the threads there may be, and loads ahead of what it compares.
constexpr int kWide = 1024, kAhead = 8;

// One block a row. Of equal values the least index, whatever the order of threads.
__global__ void __launch_bounds__(kWide) argmax_kernel(ArgmaxArgs args) {
  __shared__ float mosts[kWide];
  __shared__ int32_t bests[kWide];
  const float* row = args.x + blockIdx.x * args.v;
  float most = -INFINITY;
  int32_t best = INT32_MAX;  // none yet
  for (int64_t first = threadIdx.x; first < args.v; first += kWide * kAhead) {
    float values[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) values[u] = first + u * kWide < args.v ? row[first + u * kWide] : NAN;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (values[u] > most || (best == INT32_MAX && values[u] == most)) most = values[u], best = static_cast<int32_t>(first + u * kWide);
    }
  }
  mosts[threadIdx.x] = most, bests[threadIdx.x] = best;
  __syncthreads();
  for (int step = kWide / 2; step > 0; step /= 2) {
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
  argmax_kernel<<<args.t, kWide, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
