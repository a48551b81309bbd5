#include "attention_backward.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

// As in ops/attention: a block has kTile rows of one head of one sequence, kTile rows at a time of what they meet pass
// through shared memory, and eight neighbouring threads share a row. Two kernels, so that each sum has one owner: rows are
// queries in the first, which leaves what P needs of each query; keys in the second.
constexpr int kTile = 32, kShare = 8;

// Rows [row0, row0 + kTile) of one head into shared memory, zeros beyond the sequence.
template <class T>
__device__ void fill(float* into, const uint8_t* array, const AttentionBackwardArgs& a, int64_t first, int64_t row0, int64_t heads, int64_t which) {
  const T* from = reinterpret_cast<const T*>(array);
  const int e = static_cast<int>(a.e);
  for (int i = threadIdx.x; i < kTile * e; i += kThreads) {
    const int64_t r = row0 + i / e;
    into[i / e * (e + 1) + i % e] = r < a.length ? widen(from[((first + r) * heads + which) * e + i % e]) : 0;
  }
}

__device__ float dot(const float* a, const float* b, int e) {
  float sum = 0;
  for (int c = 0; c < e; ++c) sum = fmaf(a[c], b[c], sum);
  return sum;
}

__device__ bool in_reach(const AttentionBackwardArgs& a, int64_t query, int64_t key) {
  return query < a.length && key <= query && (a.window <= 0 || query - key < a.window);
}

// of_query: [t, heads, 2]: log of the denominator with the largest score, and D.
template <class T, int COLUMNS>
__global__ void __launch_bounds__(kThreads) queries_kernel(AttentionBackwardArgs a, int64_t tiles, float* of_query) {
  extern __shared__ float shared[];
  const int e = static_cast<int>(a.e), stride = e + 1;  // + 1: rows start in different banks
  float *const queries = shared, *const slopes = queries + kTile * stride, *const keys = slopes + kTile * stride;
  float *const values = keys + kTile * stride, *const weights = values + kTile * stride;  // weights [kTile][kTile + 1]
  const int64_t head = blockIdx.x / tiles % a.heads, first = blockIdx.x / tiles / a.heads * a.length;
  const int64_t begin = blockIdx.x % tiles * kTile, kv = head / (a.heads / a.kv_heads);
  const int row = threadIdx.x / kShare, sub = threadIdx.x % kShare;
  const int64_t query = begin + row;
  fill<T>(queries, a.q, a, first, begin, a.heads, head);
  fill<T>(slopes, a.dy, a, first, begin, a.heads, head);
  const int64_t oldest = a.window > 0 ? max(int64_t{0}, begin - a.window + 1) / kTile * kTile : 0, end = min(begin + kTile, a.length);

  float most = -INFINITY, total = 0, mean = 0;  // of the keys sub, sub + 8, …: Σ e^(score − most), and that times dy·v
  for (int64_t key = oldest; key < end; key += kTile) {
    __syncthreads();
    fill<T>(keys, a.k, a, first, key, a.kv_heads, kv);
    fill<T>(values, a.v, a, first, key, a.kv_heads, kv);
    __syncthreads();
    for (int j = sub; j < kTile; j += kShare) {
      if (!in_reach(a, query, key + j)) continue;
      const float score = a.scale * dot(queries + row * stride, keys + j * stride, e);
      const float slope = dot(slopes + row * stride, values + j * stride, e);
      const float highest = fmaxf(most, score), shrink = expf(most - highest), weight = expf(score - highest);
      total = fmaf(total, shrink, weight);
      mean = fmaf(mean, shrink, weight * slope);
      most = highest;
    }
  }
  float highest = most;
  for (int offset = kShare / 2; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
  const float shrink = most == -INFINITY ? 0 : expf(most - highest);
  total *= shrink;
  mean *= shrink;
  for (int offset = kShare / 2; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(~0u, total, offset);
    mean += __shfl_xor_sync(~0u, mean, offset);
  }
  const float log_total = highest + logf(total);
  mean /= total;

  float sums[COLUMNS] = {};
  for (int64_t key = oldest; key < end; key += kTile) {
    __syncthreads();
    fill<T>(keys, a.k, a, first, key, a.kv_heads, kv);
    fill<T>(values, a.v, a, first, key, a.kv_heads, kv);
    __syncthreads();
    for (int j = sub; j < kTile; j += kShare) {
      float weight = 0;
      if (in_reach(a, query, key + j)) {
        const float p = expf(a.scale * dot(queries + row * stride, keys + j * stride, e) - log_total);
        weight = a.scale * p * (dot(slopes + row * stride, values + j * stride, e) - mean);
      }
      weights[row * (kTile + 1) + j] = weight;
    }
    __syncwarp();  // a row's weights are made and read by one warp
    for (int j = 0; j < kTile; ++j) {
      const float weight = weights[row * (kTile + 1) + j];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (sub + c * kShare < e) sums[c] = fmaf(weight, keys[j * stride + sub + c * kShare], sums[c]);
      }
    }
  }
  if (query >= a.length) return;
  const int64_t at = (first + query) * a.heads + head;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    if (sub + c * kShare < e) a.dq[at * e + sub + c * kShare] = sums[c];
  }
  if (sub == 0) of_query[2 * at] = log_total, of_query[2 * at + 1] = mean;
}

template <class T, int COLUMNS>
__global__ void __launch_bounds__(kThreads) keys_kernel(AttentionBackwardArgs a, int64_t tiles, const float* of_query) {
  extern __shared__ float shared[];
  const int e = static_cast<int>(a.e), stride = e + 1;
  float *const keys = shared, *const values = keys + kTile * stride, *const queries = values + kTile * stride;
  float *const slopes = queries + kTile * stride, *const weights = slopes + kTile * stride;  // [kTile][2·kTile + 1]: P, then S
  const int64_t kv = blockIdx.x / tiles % a.kv_heads, first = blockIdx.x / tiles / a.kv_heads * a.length;
  const int64_t begin = blockIdx.x % tiles * kTile, group = a.heads / a.kv_heads;
  const int row = threadIdx.x / kShare, sub = threadIdx.x % kShare;
  const int64_t key = begin + row;
  fill<T>(keys, a.k, a, first, begin, a.kv_heads, kv);
  fill<T>(values, a.v, a, first, begin, a.kv_heads, kv);
  const int64_t end = a.window > 0 ? min(a.length, begin + kTile - 1 + a.window) : a.length;

  float of_key[COLUMNS] = {}, of_value[COLUMNS] = {};
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    for (int64_t query = begin; query < end; query += kTile) {
      __syncthreads();
      fill<T>(queries, a.q, a, first, query, a.heads, head);
      fill<T>(slopes, a.dy, a, first, query, a.heads, head);
      __syncthreads();
      for (int i = sub; i < kTile; i += kShare) {
        float p = 0, s = 0;
        if (in_reach(a, query + i, key)) {
          const float* known = of_query + 2 * ((first + query + i) * a.heads + head);
          p = expf(a.scale * dot(queries + i * stride, keys + row * stride, e) - known[0]);
          s = a.scale * p * (dot(slopes + i * stride, values + row * stride, e) - known[1]);
        }
        weights[row * (2 * kTile + 1) + i] = p;
        weights[row * (2 * kTile + 1) + kTile + i] = s;
      }
      __syncwarp();
      for (int i = 0; i < kTile; ++i) {
        const float p = weights[row * (2 * kTile + 1) + i], s = weights[row * (2 * kTile + 1) + kTile + i];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          if (sub + c * kShare >= e) continue;
          of_key[c] = fmaf(s, queries[i * stride + sub + c * kShare], of_key[c]);
          of_value[c] = fmaf(p, slopes[i * stride + sub + c * kShare], of_value[c]);
        }
      }
    }
  }
  if (key >= a.length) return;
  const int64_t at = ((first + key) * a.kv_heads + kv) * e;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    if (sub + c * kShare < e) a.dk[at + sub + c * kShare] = of_key[c], a.dv[at + sub + c * kShare] = of_value[c];
  }
}

template <class T, int COLUMNS>
void run(const AttentionBackwardArgs& args) {
  const size_t tile = kTile * (args.e + 1) * sizeof(float);
  const size_t for_queries = 4 * tile + kTile * (kTile + 1) * sizeof(float), for_keys = 4 * tile + kTile * (2 * kTile + 1) * sizeof(float);
  allow_shared(queries_kernel<T, COLUMNS>, for_queries);
  allow_shared(keys_kernel<T, COLUMNS>, for_keys);
  const int64_t tiles = (args.length + kTile - 1) / kTile, sequences = args.t / args.length;
  Scratch<float> of_query(2 * args.t * args.heads);
  queries_kernel<T, COLUMNS><<<sequences * args.heads * tiles, kThreads, for_queries, stream()>>>(args, tiles, of_query);
  launched();
  keys_kernel<T, COLUMNS><<<sequences * args.kv_heads * tiles, kThreads, for_keys, stream()>>>(args, tiles, of_query);
  launched();
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args) {
  static_assert(kTile * kShare == kThreads && 32 % kShare == 0);
  if (args.t == 0 || args.e == 0) return;
  if (args.e <= 128 && args.bf16) return attention_backward_bf16(args);
  if (args.e <= 64) return run<float, 8>(args);
  if (args.e <= 128) return run<float, 16>(args);
  if (args.e <= 256) return args.bf16 ? run<uint16_t, 32>(args) : run<float, 32>(args);
  fail("heads of %lld elements; at most 256 on CUDA", (long long)args.e);
}

}  // namespace ops
