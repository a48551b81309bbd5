#include "attend_cache.h"

#include "../../core/cuda.cuh"

namespace ops {

namespace {

constexpr int kWarps = kThreads / 32;

// A block for each query and head. A warp takes every kWarps-th key, its lanes share the head's elements; the warps'
// sums are added in order at the end.
__global__ void __launch_bounds__(kThreads) attend_cache_kernel(AttendCacheArgs args, float* scores, int64_t reach) {
  extern __shared__ float partial[];  // [kWarps, e]
  const int64_t at = blockIdx.x, e = args.e, stride = args.kv_heads * e;
  const int64_t end = args.start + at / args.heads + 1;
  const int64_t begin = args.window > 0 && end > args.window ? end - args.window : 0;
  const int64_t head = at % args.heads / (args.heads / args.kv_heads) * e;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* q = args.q + at * e;
  float* weights = scores + at * reach;

  float most = -3.4e38f;
  for (int64_t j = begin + warp; j < end; j += kWarps) {
    const float* k = args.k + j * stride + head;
    float score = 0;
    for (int64_t l = lane; l < e; l += 32) score += q[l] * k[l];
    for (int offset = 16; offset > 0; offset /= 2) score += __shfl_xor_sync(~0u, score, offset);
    score *= args.scale;
    if (lane == 0) weights[j - begin] = score;
    most = fmaxf(most, score);
  }
  most = block_max(most);  // waits for the other warps' scores, too
  double sum = 0;
  for (int64_t j = threadIdx.x; j < end - begin; j += kThreads) {
    const float weight = expf(weights[j] - most);
    weights[j] = weight;
    sum += weight;
  }
  sum = block_sum(sum);
  for (int64_t l = lane; l < e; l += 32) {
    float value = 0;
    for (int64_t j = begin + warp; j < end; j += kWarps) value += weights[j - begin] * args.v[j * stride + head + l];
    partial[warp * e + l] = value;
  }
  __syncthreads();
  for (int64_t l = threadIdx.x; l < e; l += kThreads) {
    float value = 0;
    for (int w = 0; w < kWarps; ++w) value += partial[w * e + l];
    args.out[at * e + l] = static_cast<float>(value / sum);
  }
}

}  // namespace

void attend_cache(const AttendCacheArgs& args) {
  const int64_t blocks = args.t * args.heads;
  if (blocks == 0) return;
  const int64_t all = args.start + args.t, reach = args.window > 0 ? std::min(args.window, all) : all;
  const Scratch<float> scores(blocks * reach);
  const size_t bytes = kWarps * args.e * sizeof(float);
  allow_shared(attend_cache_kernel, bytes);
  attend_cache_kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream()>>>(args, scores, reach);
  launched();
}

}  // namespace ops
