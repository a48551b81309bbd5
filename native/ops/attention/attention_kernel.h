// defines: attention of a block of queries of one head, in GCC's vector extensions. Each translation unit compiles it
// for its instruction set.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../core/exp_kernel.h"
#include "attention.h"

namespace ops {

constexpr int64_t kQueries = 32;  // of one piece: keys and values are repacked once a piece, which is 2/32 of its work

// The arrays of a call in f32.
struct AttentionArrays {
  const float *q, *k, *v;
  float* out;
};

void attention_block_avx2(const AttentionArgs& args, const AttentionArrays& arrays, int64_t sequence, int64_t head, int64_t first);
void attention_block_avx512(const AttentionArgs& args, const AttentionArrays& arrays, int64_t sequence, int64_t head, int64_t first);

namespace {

// Queries [first, first + kQueries) of the sequence, cut off at its end.
template <int BYTES>
void attention_block(const AttentionArgs& args, const AttentionArrays& arrays, int64_t sequence, int64_t head, int64_t first) {
  using L = Lanes<BYTES>;
  using Float = typename L::Float;
  constexpr int W = L::W, R = 4;  // queries that share a load
  const int64_t e = args.e, wide = (e + W - 1) / W * W;
  const int64_t kv = head / (args.heads / args.kv_heads);
  const int64_t q_stride = args.heads * e, kv_stride = args.kv_heads * e;
  const int64_t last = std::min(first + kQueries, args.length);  // exclusive
  const int64_t from = args.window > 0 ? std::max<int64_t>(0, args.before + first - args.window + 1) : 0;
  const int64_t keys = args.before + last - from, room = (keys + W - 1) / W * W;

  const float* q = arrays.q + sequence * args.length * q_stride + head * e;
  const float* k = arrays.k + sequence * args.length * kv_stride + kv * e;
  const float* v = arrays.v + sequence * args.length * kv_stride + kv * e;
  float* out = arrays.out + sequence * args.length * q_stride + head * e;

  thread_local std::vector<float> scratch;
  scratch.resize(kQueries * room + e * W + keys * wide);
  float* scores = scratch.data();           // [kQueries, room]
  float* tile = scores + kQueries * room;   // [e, W] keys, transposed
  float* values = tile + e * W;             // [keys, wide]

  for (int64_t j = 0; j < keys; ++j) {
    std::memcpy(values + j * wide, v + (from + j) * kv_stride, e * sizeof(float));
    std::memset(values + j * wide + e, 0, (wide - e) * sizeof(float));
  }
  const auto query = [&](int64_t i) { return q + std::min(i, last - 1) * q_stride; };  // beyond the end: computed again, not used

  for (int64_t j = 0; j < keys; j += W) {
    for (int64_t w = 0; w < W; ++w) {
      const float* key = k + (from + std::min(j + w, keys - 1)) * kv_stride;
      for (int64_t l = 0; l < e; ++l) tile[l * W + w] = key[l];
    }
    for (int64_t i = first; i < last; i += R) {
      const float* rows[R];
      Float sum[R] = {};
      for (int r = 0; r < R; ++r) rows[r] = query(i + r);
      for (int64_t l = 0; l < e; ++l) {
        const Float column = L::load(tile + l * W);
        for (int r = 0; r < R; ++r) sum[r] += rows[r][l] * column;
      }
      for (int r = 0; r < R; ++r) L::store(scores + (i - first + r) * room + j, sum[r] * args.scale);
    }
  }

  float share[kQueries];  // 1 / Σ e^(score − max)
  for (int64_t i = first; i < last; ++i) {
    float* row = scores + (i - first) * room;
    const int64_t own = args.before + i, begin = args.window > 0 ? std::max<int64_t>(0, own - args.window + 1 - from) : 0, end = own + 1 - from;
    L::exp_all(row + begin, 1.0f, -L::max_of(row + begin, end - begin), row + begin, end - begin);
    share[i - first] = 1.0f / L::sum_of(row + begin, end - begin);
    std::memset(row, 0, begin * sizeof(float));
    std::memset(row + end, 0, (room - end) * sizeof(float));
  }

  for (int64_t i = first; i < last; i += R) {
    const float* rows[R];
    for (int r = 0; r < R; ++r) rows[r] = scores + (std::min(i + r, last - 1) - first) * room;
    for (int64_t l = 0; l < wide; l += W) {
      Float sum[R] = {};
      for (int64_t j = 0; j < keys; ++j) {
        const Float value = L::load(values + j * wide + l);
        for (int r = 0; r < R; ++r) sum[r] += rows[r][j] * value;
      }
      for (int r = 0; r < R && i + r < last; ++r) {
        const Float mean = sum[r] * share[i + r - first];
        std::memcpy(out + (i + r) * q_stride + l, &mean, std::min<int64_t>(W, e - l) * sizeof(float));
      }
    }
  }
}

}  // namespace
}  // namespace ops
