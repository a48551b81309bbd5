#include "top_k.h"

#include "../../core/softmax.cuh"

namespace ops {

namespace {

constexpr int kMost = 1024;

// One block a row: the k-th key by eight rounds of counting, from its highest byte down; then the k above it, sorted.
__global__ void __launch_bounds__(kThreads) top_k_kernel(TopKArgs args) {
  const auto& [logits, indices, values, rest, t, v, k] = args;
  const int64_t i = blockIdx.x;
  const float* x = logits + i * v;
  const LogSum all = block_log_sum(x, v);
  __shared__ int counts[256];
  __shared__ uint64_t found;    // the bytes of the k-th key that are known
  __shared__ int64_t wanted;    // which of the keys with these bytes it is, from the largest
  __shared__ uint64_t keys[kMost];
  __shared__ int taken;
  if (threadIdx.x == 0) found = 0, wanted = k, taken = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int b = threadIdx.x; b < 256; b += kThreads) counts[b] = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < v; j += kThreads) {
      const uint64_t key = top_k_key(x[j], j);
      if (shift == 56 || key >> (shift + 8) == found >> (shift + 8)) atomicAdd(counts + (key >> shift & 255), 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int b = 255;
      while (wanted > counts[b]) wanted -= counts[b--];
      found |= static_cast<uint64_t>(b) << shift;
    }
    __syncthreads();
  }
  double sum = 0;
  for (int64_t j = threadIdx.x; j < v; j += kThreads) {
    const uint64_t key = top_k_key(x[j], j);
    if (key >= found) keys[atomicAdd(&taken, 1)] = key;
    else sum += expf(x[j] - all.max);
  }
  sum = block_sum(sum);
  int size = 1;
  while (size < k) size *= 2;
  for (int64_t j = k + threadIdx.x; j < size; j += kThreads) keys[j] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      for (int a = threadIdx.x; a < size; a += kThreads) {
        const int b = a ^ apart;
        if (b < a || (keys[a] < keys[b]) != ((a & run) == 0)) continue;
        const uint64_t key = keys[a];
        keys[a] = keys[b], keys[b] = key;
      }
      __syncthreads();
    }
  }
  for (int64_t j = threadIdx.x; j < k; j += kThreads) {
    const int32_t at = top_k_class(keys[j]);
    indices[i * k + j] = at;
    values[i * k + j] = static_cast<float>(x[at] - all.value);
  }
  if (threadIdx.x == 0) rest[i] = static_cast<float>(log(sum / all.sum));
}

}  // namespace

void top_k(const TopKArgs& args) {
  if (args.t == 0) return;
  top_k_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
