// The way back through attention of bf16 on tensor cores.
//
// Dao, FlashAttention-2 (arXiv:2307.08691), algorithm 2, but in two kernels, so that each sum has one owner and no atomics
// are needed: rows are queries in the first, which leaves what P needs of each query; keys in the second. That is nine
// products of tiles where one kernel has five and D is given.
#include "../../core/cuda.cuh"
#include "../../core/tensor_core.cuh"
#include "attention_backward.h"

namespace ops {

namespace {

constexpr int kRows = 64, kWarps = kRows / 16, kBlock = 32 * kWarps;  // a warp owns 16 rows
constexpr int kMet = 32;                                             // rows met at a time
constexpr float kLog2E = 1.44269504f;

// A matrix of ROWS rows of one head, as a block sees it: E columns and room so that rows begin 16 bytes further round the banks.
template <int E>
constexpr int kStride = E + kVector;

// Rows [row0, row0 + ROWS) of one head into shared memory, zeros beyond the sequence and beyond e.
template <int E, int ROWS>
__device__ void fill(uint16_t* into, const uint8_t* array, int64_t first, int64_t row0, int64_t length, int64_t heads, int64_t head, int e) {
  const uint16_t* from = reinterpret_cast<const uint16_t*>(array) + head * e;
  for (int i = threadIdx.x; i < ROWS * (E / kVector); i += kBlock) {
    const int64_t row = row0 + i / (E / kVector);
    const int column = i % (E / kVector) * kVector;
    uint16_t* to = into + i / (E / kVector) * kStride<E> + column;
    const uint16_t* source = from + (first + min(row, length - 1)) * heads * e + column;
    if (e % kVector == 0) {
      const bool inside = row < length && column < e;
      copy_async(to, inside ? source : from, inside);
    } else {
      for (int j = 0; j < kVector; ++j) to[j] = row < length && column + j < e ? source[j] : 0;
    }
  }
}

// d [16, kMet] = rows · metᵀ for the warp's rows.
template <int E>
__device__ void products(float (&d)[kMet / 8][4], const uint16_t* rows, const uint16_t* met) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint16_t* const row_at = rows + (warp * 16 + lane % 16) * kStride<E> + lane / 16 * 8;
  const uint16_t* const met_at = met + (lane / 16 * 8 + lane % 8) * kStride<E> + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) d[n][c] = 0;
  }
#pragma unroll
  for (int k = 0; k < E / 16; ++k) {
    uint32_t a[4], b[4];
    load_matrices(a, row_at + k * 16);
#pragma unroll
    for (int n = 0; n < kMet / 16; ++n) {
      load_matrices(b, met_at + n * 16 * kStride<E> + k * 16);
      multiply(d[2 * n], a, b[0], b[1]);
      multiply(d[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// sums [16, E] += weights [16, kMet] · met, weights rounded to bf16.
template <int E>
__device__ void add_products(float (&sums)[E / 8][4], const float (&weights)[kMet / 8][4], const uint16_t* met) {
  const int lane = threadIdx.x % 32;
  const uint16_t* const met_at = met + lane % 16 * kStride<E> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kMet / 16; ++k) {
    const float(&left)[4] = weights[2 * k], (&right)[4] = weights[2 * k + 1];
    const uint32_t a[4] = {bf16_pair(left[0], left[1]), bf16_pair(left[2], left[3]), bf16_pair(right[0], right[1]), bf16_pair(right[2], right[3])};
#pragma unroll
    for (int n = 0; n < E / 16; ++n) {
      uint32_t b[4];
      load_transposed(b, met_at + k * 16 * kStride<E> + n * 16);
      multiply(sums[2 * n], a, b[0], b[1]);
      multiply(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// The warp's rows of `sums` to rows [row0, …) of one head, f32.
template <int E>
__device__ void store(float* to, const float (&sums)[E / 8][4], int64_t first, int64_t row0, int64_t length, int64_t heads, int64_t head, int e) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < E / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int64_t row = row0 + warp * 16 + lane / 4 + c / 2 * 8;
      const int column = n * 8 + lane % 4 * 2 + c % 2;
      if (row < length && column < e) to[((first + row) * heads + head) * e + column] = sums[n][c];
    }
  }
}

__device__ bool in_reach(const AttentionBackwardArgs& a, int64_t query, int64_t key) {
  return query < a.length && key <= query && (a.window <= 0 || query - key < a.window);
}

// of_query: [t, heads, 2]: log₂ of the sum of e^score, and D.
template <int E>
__global__ void __launch_bounds__(kBlock, 2) queries_kernel(AttentionBackwardArgs a, int64_t tiles, float* of_query) {
  extern __shared__ __align__(16) uint16_t shared[];
  uint16_t *const queries = shared, *const slopes = queries + kRows * kStride<E>;
  uint16_t *const keys = slopes + kRows * kStride<E>, *const values = keys + kMet * kStride<E>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, e = static_cast<int>(a.e);
  const int64_t begin = (tiles - 1 - blockIdx.x % tiles) * kRows;  // the last queries, which reach the most keys, first
  const int64_t head = blockIdx.x / tiles % a.heads, first = blockIdx.x / tiles / a.heads * a.length, kv = head / (a.heads / a.kv_heads);
  const int64_t oldest = a.window > 0 ? max(int64_t{0}, begin - a.window + 1) / kMet * kMet : 0, end = min(begin + kRows, a.length);
  const int64_t row = begin + warp * 16 + lane / 4;
  const float scale = a.scale * kLog2E;
  fill<E, kRows>(queries, a.q, first, begin, a.length, a.heads, head, e);
  fill<E, kRows>(slopes, a.dy, first, begin, a.length, a.heads, head, e);

  float score[kMet / 8][4], slope[kMet / 8][4];
  const auto meet = [&](int64_t key) {  // score = scale·q·k in powers of two, −∞ out of reach; slope = dy·v
    __syncthreads();
    fill<E, kMet>(keys, a.k, first, key, a.length, a.kv_heads, kv, e);
    fill<E, kMet>(values, a.v, first, key, a.length, a.kv_heads, kv, e);
    arrived();
    __syncthreads();
    products<E>(score, queries, keys);
    products<E>(slope, slopes, values);
    const bool partly = key + kMet - 1 > begin || begin + kRows > a.length || (a.window > 0 && key <= begin + kRows - 1 - a.window);
#pragma unroll
    for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const bool reached = !partly || in_reach(a, row + c / 2 * 8, key + n * 8 + lane % 4 * 2 + c % 2);
        score[n][c] = reached ? score[n][c] * scale : -INFINITY;
      }
    }
  };

  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, mean[2] = {0, 0};  // of rows `row` and `row` + 8, this lane's columns
  for (int64_t key = oldest; key < end; key += kMet) {
    meet(key);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float highest = most[r];
#pragma unroll
      for (int n = 0; n < kMet / 8; ++n) highest = fmaxf(highest, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
      const float shift = highest == -INFINITY ? 0 : highest;
      const float shrink = power_of_two(most[r] - shift);
      most[r] = highest;
      total[r] *= shrink;
      mean[r] *= shrink;
#pragma unroll
      for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c) {
          const float weight = power_of_two(score[n][c] - shift);
          total[r] += weight;
          mean[r] = fmaf(weight, slope[n][c], mean[r]);
        }
      }
    }
  }
  float log_total[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float highest = most[r];
    for (int offset = 1; offset < 4; offset *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
    const float shrink = most[r] == -INFINITY ? 0 : power_of_two(most[r] - highest);
    total[r] *= shrink;
    mean[r] *= shrink;
    for (int offset = 1; offset < 4; offset *= 2) {
      total[r] += __shfl_xor_sync(~0u, total[r], offset);
      mean[r] += __shfl_xor_sync(~0u, mean[r], offset);
    }
    mean[r] /= total[r];
    log_total[r] = highest + log2f(total[r]);
    if (lane % 4 == 0 && row + r * 8 < a.length) {
      float* const known = of_query + 2 * ((first + row + r * 8) * a.heads + head);
      known[0] = log_total[r], known[1] = mean[r];
    }
  }

  float sums[E / 8][4] = {};
  for (int64_t key = oldest; key < end; key += kMet) {
    meet(key);
#pragma unroll
    for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const bool reached = score[n][c] != -INFINITY;  // beyond the sequence log_total is no number
        score[n][c] = reached ? a.scale * power_of_two(score[n][c] - log_total[c / 2]) * (slope[n][c] - mean[c / 2]) : 0;
      }
    }
    add_products<E>(sums, score, keys);
  }
  store<E>(a.dq, sums, first, begin, a.length, a.heads, head, e);
}

template <int E>
__global__ void __launch_bounds__(kBlock, 2) keys_kernel(AttentionBackwardArgs a, int64_t tiles, const float* of_query) {
  extern __shared__ __align__(16) uint16_t shared[];
  uint16_t *const keys = shared, *const values = keys + kRows * kStride<E>;
  uint16_t *const queries = values + kRows * kStride<E>, *const slopes = queries + kMet * kStride<E>;
  float* const known = reinterpret_cast<float*>(slopes + kMet * kStride<E>);  // [kMet][2]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, e = static_cast<int>(a.e);
  const int64_t begin = blockIdx.x % tiles * kRows;  // the first keys, which the most queries reach, first
  const int64_t kv = blockIdx.x / tiles % a.kv_heads, first = blockIdx.x / tiles / a.kv_heads * a.length, group = a.heads / a.kv_heads;
  const int64_t end = a.window > 0 ? min(a.length, begin + kRows - 1 + a.window) : a.length;
  const int64_t row = begin + warp * 16 + lane / 4;
  const float scale = a.scale * kLog2E;
  fill<E, kRows>(keys, a.k, first, begin, a.length, a.kv_heads, kv, e);
  fill<E, kRows>(values, a.v, first, begin, a.length, a.kv_heads, kv, e);

  float of_key[E / 8][4] = {}, of_value[E / 8][4] = {};
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    for (int64_t query = begin; query < end; query += kMet) {
      __syncthreads();
      fill<E, kMet>(queries, a.q, first, query, a.length, a.heads, head, e);
      fill<E, kMet>(slopes, a.dy, first, query, a.length, a.heads, head, e);
      for (int i = threadIdx.x; i < 2 * kMet; i += kBlock) {
        known[i] = query + i / 2 < a.length ? of_query[2 * ((first + query + i / 2) * a.heads + head) + i % 2] : 0;
      }
      arrived();
      __syncthreads();
      float score[kMet / 8][4], slope[kMet / 8][4];
      products<E>(score, keys, queries);
      products<E>(slope, values, slopes);
      const bool partly = query < begin + kRows || query + kMet > a.length || (a.window > 0 && query + kMet - 1 - begin >= a.window);
#pragma unroll
      for (int n = 0; n < kMet / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int at = n * 8 + lane % 4 * 2 + c % 2;
          const bool reached = !partly || in_reach(a, query + at, row + c / 2 * 8);
          const float p = reached ? power_of_two(score[n][c] * scale - known[2 * at]) : 0;
          score[n][c] = p;
          slope[n][c] = reached ? a.scale * p * (slope[n][c] - known[2 * at + 1]) : 0;
        }
      }
      add_products<E>(of_value, score, slopes);
      add_products<E>(of_key, slope, queries);
    }
  }
  store<E>(a.dk, of_key, first, begin, a.length, a.kv_heads, kv, e);
  store<E>(a.dv, of_value, first, begin, a.length, a.kv_heads, kv, e);
}

template <int E>
void run(const AttentionBackwardArgs& args) {
  const size_t for_queries = 2 * (kRows + kMet) * kStride<E> * sizeof(uint16_t), for_keys = for_queries + 2 * kMet * sizeof(float);
  allow_shared(queries_kernel<E>, for_queries);
  allow_shared(keys_kernel<E>, for_keys);
  const int64_t tiles = (args.length + kRows - 1) / kRows, sequences = args.t / args.length;
  Scratch<float> of_query(2 * args.t * args.heads);
  queries_kernel<E><<<sequences * args.heads * tiles, kBlock, for_queries, stream()>>>(args, tiles, of_query);
  launched();
  keys_kernel<E><<<sequences * args.kv_heads * tiles, kBlock, for_keys, stream()>>>(args, tiles, of_query);
  launched();
}

}  // namespace

void attention_backward_bf16(const AttentionBackwardArgs& args) {
  if (args.e <= 32) return run<32>(args);
  if (args.e <= 64) return run<64>(args);
  if (args.e <= 96) return run<96>(args);
  run<128>(args);
}

}  // namespace ops
