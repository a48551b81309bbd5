// Attention of bf16 on tensor cores, key by key tile with a running softmax, so that no score is ever stored.
//
// Dao, FlashAttention-2 (arXiv:2307.08691), algorithm 1. A block makes kQueries queries of one head of one sequence, a warp
// 16 of them; kKeys keys at a time pass through shared memory: while scores are made values arrive, and the next keys
// while the values are summed. Each warp reads 2·kKeys·E elements from shared memory for 4·16·kKeys·E multiply-adds: at
// 128 bytes a cycle that allows half of what tensor cores could do, and softmax takes its share of the rest.
#include "../../core/cuda.cuh"
#include "../../core/tensor_core.cuh"
#include "attention.h"

namespace ops {

namespace {

constexpr int kQueries = 64, kKeys = 64, kWarps = kQueries / 16, kBlock = 32 * kWarps;

// Rows [row0, row0 + 64) of one head into shared memory, zeros beyond the sequence and beyond e. E: e rounded up.
template <int E>
__device__ void fill(uint16_t* into, const uint8_t* array, int64_t first, int64_t row0, int64_t length, int64_t heads, int64_t head, int e) {
  static_assert(kQueries == kKeys);
  const uint16_t* from = reinterpret_cast<const uint16_t*>(array) + head * e;
  for (int i = threadIdx.x; i < kKeys * (E / kVector); i += kBlock) {
    const int64_t row = row0 + i / (E / kVector);
    const int column = i % (E / kVector) * kVector;
    uint16_t* to = into + i / (E / kVector) * (E + kVector) + column;
    const uint16_t* source = from + (first + min(row, length - 1)) * heads * e + column;
    if (e % kVector == 0) {
      const bool inside = row < length && column < e;
      copy_async(to, inside ? source : from, inside);
    } else {
      for (int j = 0; j < kVector; ++j) to[j] = row < length && column + j < e ? source[j] : 0;
    }
  }
}

template <int E>
__global__ void __launch_bounds__(kBlock, E <= 64 ? 4 : E <= 128 ? 3 : 1) attention_bf16_kernel(AttentionArgs args, int64_t tiles) {
  extern __shared__ __align__(16) uint16_t shared[];
  constexpr int kStride = E + kVector;  // rows begin 16 bytes further round the banks: ldmatrix without conflicts
  constexpr bool kHold = E <= 128;      // queries stay in registers
  uint16_t* const queries = shared;
  uint16_t* const keys = queries + kQueries * kStride;
  uint16_t* const values = keys + kKeys * kStride;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, e = static_cast<int>(args.e);
  // The last queries, which reach the most keys, first; blocks that run together share keys, which stay in the L2.
  const int64_t begin = (tiles - 1 - blockIdx.x % tiles) * kQueries;
  const int64_t head = blockIdx.x / tiles % args.heads, first = blockIdx.x / tiles / args.heads * args.length;
  const int64_t kv_head = head / (args.heads / args.kv_heads);
  const int64_t kv_first = args.row + first, kv_length = args.before + args.length, own = args.before + begin;  // own: the key of the first query
  const int64_t oldest = args.window > 0 ? max(int64_t{0}, own - args.window + 1) / kKeys * kKeys : 0;
  const int64_t end = args.before + min(begin + kQueries, args.length);
  const float scale = args.scale * 1.44269504f;  // powers of two in place of e

  fill<E>(queries, args.q, first, begin, args.length, args.heads, head, e);
  fill<E>(keys, args.k, kv_first, oldest, kv_length, args.kv_heads, kv_head, e);
  const uint16_t* const query_at = queries + (warp * 16 + lane % 16) * kStride + lane / 16 * 8;
  const uint16_t* const key_at = keys + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
  const uint16_t* const value_at = values + lane % 16 * kStride + lane / 16 * 8;

  uint32_t q[kHold ? E / 16 : 1][4];
  float out[E / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // of rows lane / 4 and lane / 4 + 8 of the warp's
  const int64_t row = begin + warp * 16 + lane / 4;

  for (int64_t key = oldest; key < end; key += kKeys) {
    arrived();
    __syncthreads();  // keys are there, values are done with
    if constexpr (kHold) {
      if (key == oldest) {
#pragma unroll
        for (int k = 0; k < E / 16; ++k) load_matrices(q[k], query_at + k * 16);
      }
    }
    fill<E>(values, args.v, kv_first, key, kv_length, args.kv_heads, kv_head, e);
    float score[kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < E / 16; ++k) {
      if constexpr (!kHold) load_matrices(q[0], query_at + k * 16);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, key_at + n * 16 * kStride + k * 16);
        multiply(score[2 * n], q[kHold ? k : 0], b[0], b[1]);
        multiply(score[2 * n + 1], q[kHold ? k : 0], b[2], b[3]);
      }
    }
    const bool partly = key + kKeys - 1 > own || (args.window > 0 && key <= own + kQueries - 1 - args.window);
    float highest[2] = {most[0], most[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        score[n][c] *= scale;
        if (partly) {
          const int64_t distance = args.before + row + c / 2 * 8 - (key + n * 8 + lane % 4 * 2 + c % 2);
          if (distance < 0 || (args.window > 0 && distance >= args.window)) score[n][c] = -INFINITY;
        }
        highest[c / 2] = fmaxf(highest[c / 2], score[n][c]);
      }
    }
    float shift[2], shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      for (int offset = 1; offset < 4; offset *= 2) highest[r] = fmaxf(highest[r], __shfl_xor_sync(~0u, highest[r], offset));
      shift[r] = highest[r] == -INFINITY ? 0 : highest[r];  // a row that has reached no key yet keeps its zeros
      shrink[r] = power_of_two(most[r] - shift[r]);
      most[r] = highest[r];
      total[r] *= shrink[r];
    }
    uint32_t weights[kKeys / 16][4];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = power_of_two(score[n][2 * r] - shift[r]), y = power_of_two(score[n][2 * r + 1] - shift[r]);
        total[r] += x + y;
        weights[n / 2][n % 2 * 2 + r] = bf16_pair(x, y);
      }
    }
#pragma unroll
    for (int n = 0; n < E / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) out[n][c] *= shrink[c / 2];
    }
    arrived();
    __syncthreads();  // values are there, keys are done with
    if (key + kKeys < end) fill<E>(keys, args.k, kv_first, key + kKeys, kv_length, args.kv_heads, kv_head, e);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int n = 0; n < E / 16; ++n) {
        uint32_t b[4];
        load_transposed(b, value_at + k * 16 * kStride + n * 16);
        multiply(out[2 * n], weights[k], b[0], b[1]);
        multiply(out[2 * n + 1], weights[k], b[2], b[3]);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int offset = 1; offset < 4; offset *= 2) total[r] += __shfl_xor_sync(~0u, total[r], offset);
    const int64_t query = row + r * 8;
    if (query >= args.length) continue;
    const float share = 1 / total[r];
    const int64_t place = ((first + query) * args.heads + head) * e;
    uint16_t* to = reinterpret_cast<uint16_t*>(args.out) + place;
    float* wide = reinterpret_cast<float*>(args.out) + place;
#pragma unroll
    for (int n = 0; n < E / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      if (args.wide) {
        if (column < e) wide[column] = out[n][2 * r] * share;
        if (column + 1 < e) wide[column + 1] = out[n][2 * r + 1] * share;
        continue;
      }
      const uint32_t pair = bf16_pair(out[n][2 * r] * share, out[n][2 * r + 1] * share);
      if (e % 2 == 0 && column < e) {
        *reinterpret_cast<uint32_t*>(to + column) = pair;
      } else {
        if (column < e) to[column] = static_cast<uint16_t>(pair);
        if (column + 1 < e) to[column + 1] = static_cast<uint16_t>(pair >> 16);
      }
    }
  }
}

template <int E>
void run(const AttentionArgs& args) {
  const size_t bytes = (kQueries + 2 * kKeys) * (E + kVector) * sizeof(uint16_t);
  allow_shared(attention_bf16_kernel<E>, bytes);
  const int64_t tiles = (args.length + kQueries - 1) / kQueries;
  attention_bf16_kernel<E><<<args.t / args.length * args.heads * tiles, kBlock, bytes, stream()>>>(args, tiles);
  launched();
}

}  // namespace

void attention_bf16(const AttentionArgs& args) {
  if (args.e <= 32) return run<32>(args);
  if (args.e <= 64) return run<64>(args);
  if (args.e <= 96) return run<96>(args);
  if (args.e <= 128) return run<128>(args);
  run<256>(args);
}

}  // namespace ops
