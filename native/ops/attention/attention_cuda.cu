#include "attention.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

// A block makes kTile queries of one head of one sequence; kTile keys at a time pass through shared memory. Eight
// neighbouring threads share a query: keys sub, sub + 8, … of a tile and elements sub, sub + 8, … of the result are theirs.
constexpr int kTile = 32, kShare = 8;

// COLUMNS: elements of a head that one thread sums, at least e / kShare.
template <int COLUMNS>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionArgs args, int64_t tiles) {
  const float *q = reinterpret_cast<const float*>(args.q), *k = reinterpret_cast<const float*>(args.k), *v = reinterpret_cast<const float*>(args.v);
  float* const out = reinterpret_cast<float*>(args.out);
  extern __shared__ float shared[];
  const int e = static_cast<int>(args.e), stride = e + 1;  // + 1: rows start in different banks
  float* const queries = shared;
  float* const other = queries + kTile * stride;  // keys, then values
  float* const weights = other + kTile * stride;  // [kTile][kTile + 1]
  const int64_t head = blockIdx.x / tiles % args.heads, first = blockIdx.x / tiles / args.heads * args.length;
  const int64_t begin = blockIdx.x % tiles * kTile, before = args.before, kv_first = args.row + first;
  const int64_t kv_head = head / (args.heads / args.kv_heads);
  const int row = threadIdx.x / kShare, sub = threadIdx.x % kShare;
  const int64_t query = begin + row;

  const auto fill = [&](float* into, const float* from, int64_t row0, int64_t length, int64_t heads, int64_t which) {
    for (int i = threadIdx.x; i < kTile * e; i += kThreads) {
      const int64_t r = row0 + i / e;
      into[i / e * stride + i % e] = r < length ? from[(r * heads + which) * e + i % e] : 0;
    }
  };
  fill(queries, q + first * args.heads * e, begin, args.length, args.heads, head);

  float sums[COLUMNS] = {}, most = -INFINITY, total = 0;
  const int64_t oldest = args.window > 0 ? max(int64_t{0}, before + begin - args.window + 1) : 0, end = before + min(begin + kTile, args.length);
  for (int64_t key = oldest / kTile * kTile; key < end; key += kTile) {
    __syncthreads();
    fill(other, k + kv_first * args.kv_heads * e, key, before + args.length, args.kv_heads, kv_head);
    __syncthreads();
    float score[kTile / kShare], highest = most;
    for (int j = 0; j < kTile / kShare; ++j) {
      const int at = sub + j * kShare;
      const int64_t distance = before + query - (key + at);
      float dot = 0;
      for (int c = 0; c < e; ++c) dot = fmaf(queries[row * stride + c], other[at * stride + c], dot);
      const bool reached = distance >= 0 && (args.window <= 0 || distance < args.window);
      score[j] = reached ? dot * args.scale : -INFINITY;
      highest = fmaxf(highest, score[j]);
    }
    for (int offset = kShare / 2; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
    // A row that has reached no key yet keeps its zeros.
    const float shrink = highest == -INFINITY ? 1 : expf(most - highest);
    float added = 0;
    for (int j = 0; j < kTile / kShare; ++j) {
      const float weight = score[j] == -INFINITY ? 0 : expf(score[j] - highest);
      weights[row * (kTile + 1) + sub + j * kShare] = weight;
      added += weight;
    }
    for (int offset = kShare / 2; offset > 0; offset /= 2) added += __shfl_xor_sync(~0u, added, offset);
    total = fmaf(total, shrink, added);
    most = highest;
    __syncthreads();
    fill(other, v + kv_first * args.kv_heads * e, key, before + args.length, args.kv_heads, kv_head);
    __syncthreads();
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sums[c] *= shrink;
    for (int j = 0; j < kTile; ++j) {
      const float weight = weights[row * (kTile + 1) + j];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (sub + c * kShare < e) sums[c] = fmaf(weight, other[j * stride + sub + c * kShare], sums[c]);
      }
    }
  }
  if (query >= args.length) return;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    if (sub + c * kShare < e) out[((first + query) * args.heads + head) * e + sub + c * kShare] = sums[c] / total;
  }
}

template <int COLUMNS>
void run(const AttentionArgs& args) {
  const size_t bytes = (2 * kTile * (args.e + 1) + kTile * (kTile + 1)) * sizeof(float);
  allow_shared(attention_kernel<COLUMNS>, bytes);
  const int64_t tiles = (args.length + kTile - 1) / kTile;
  attention_kernel<COLUMNS><<<args.t / args.length * args.heads * tiles, kThreads, bytes, stream()>>>(args, tiles);
  launched();
}

}  // namespace

void attention(const AttentionArgs& args) {
  static_assert(kTile * kShare == kThreads);
  if (args.t == 0 || args.e == 0) return;
  if (args.e > 256) fail("heads of %lld elements; at most 256 on CUDA", (long long)args.e);
  if (args.bf16) return attention_bf16(args);
  if (args.e <= 64) return run<8>(args);
  if (args.e <= 128) return run<16>(args);
  run<32>(args);
}

}  // namespace ops
