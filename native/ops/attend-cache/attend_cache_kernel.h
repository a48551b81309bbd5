// defines: attend_piece, a row's attention to some keys of a cache, in GCC's vector extensions. Each translation unit compiles it for
// its instruction set.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../core/exp_kernel.h"
#include "../../core/half.h"

namespace ops {

// Some neighbouring heads of a row over some neighbouring keys, and what becomes of them: a softmax in the making is its largest score,
// Σ e^(score − most) and Σ e^(score − most)·v.
struct AttendPiece {
  const float* q;                // [kv_heads·each, e], turned
  const uint8_t *keys, *values;  // of the first key, at the first of kv_heads; f32 or bf16
  int64_t count, stride;         // keys, at least 1; elements from one to the next
  int64_t kv_heads, each, e;
  float scale;
  bool bf16;
  float *most, *weight, *sums;  // [kv_heads·each], [kv_heads·each], [kv_heads·each, e]
};

void attend_piece_avx2(const AttendPiece& piece);
void attend_piece_avx512(const AttendPiece& piece);

namespace {

// Keys one by one with all heads, as they stand in memory, kTogether at a time, which share the loads of q and of the sums.
template <int BYTES>
void attend_piece(const AttendPiece& p) {
  using L = Lanes<BYTES>;
  using Float = typename L::Float;
  constexpr int W = L::W, kTogether = 4;
  const int64_t e = p.e, whole = e / W * W, heads = p.kv_heads * p.each, span = p.kv_heads * e;
  thread_local std::vector<float> scratch;
  scratch.resize(heads * p.count + kTogether * span);
  float* const scores = scratch.data();  // [heads, count]
  float* const widened = scores + heads * p.count;
  const float* rows[kTogether];
  const auto rows_from = [&](const uint8_t* array, int64_t first) {
    for (int64_t r = 0; r < kTogether; ++r) {
      const int64_t at = std::min(first + r, p.count - 1) * p.stride;  // beyond the end: the last again, which is not used
      rows[r] = reinterpret_cast<const float*>(array) + at;
      if (!p.bf16) continue;
      const uint16_t* const narrow = reinterpret_cast<const uint16_t*>(array) + at;
      float* const to = widened + r * span;
      for (int64_t l = 0; l < span; ++l) to[l] = bf16_to_f32(narrow[l]);
      rows[r] = to;
    }
  };

  for (int64_t j = 0; j < p.count; j += kTogether) {
    rows_from(p.keys, j);
    for (int64_t h = 0; h < heads; ++h) {
      const float* const q = p.q + h * e;
      const int64_t from = h / p.each * e;
      Float products[kTogether] = {};
      for (int64_t l = 0; l < whole; l += W) {
        const Float own = L::load(q + l);
        for (int r = 0; r < kTogether; ++r) products[r] += own * L::load(rows[r] + from + l);
      }
      for (int r = 0; r < kTogether && j + r < p.count; ++r) {
        float lanes[W];
        L::store(lanes, products[r]);
        for (int half = W / 2; half > 0; half /= 2)
          for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
        for (int64_t l = whole; l < e; ++l) lanes[0] += q[l] * rows[r][from + l];
        scores[h * p.count + j + r] = p.scale * lanes[0];
      }
    }
  }

  for (int64_t h = 0; h < heads; ++h) {
    float* const row = scores + h * p.count;
    p.most[h] = L::max_of(row, p.count);
    L::exp_all(row, 1.0f, -p.most[h], row, p.count);
    p.weight[h] = L::sum_of(row, p.count);
  }

  std::fill_n(p.sums, heads * e, 0.0f);
  for (int64_t j = 0; j < p.count; j += kTogether) {
    rows_from(p.values, j);
    for (int64_t h = 0; h < heads; ++h) {
      float weights[kTogether];
      for (int r = 0; r < kTogether; ++r) weights[r] = j + r < p.count ? scores[h * p.count + j + r] : 0;
      float* const sums = p.sums + h * e;
      const int64_t from = h / p.each * e;
      for (int64_t l = 0; l < whole; l += W) {
        Float sum = L::load(sums + l);
        for (int r = 0; r < kTogether; ++r) sum += weights[r] * L::load(rows[r] + from + l);
        L::store(sums + l, sum);
      }
      for (int64_t l = whole; l < e; ++l)
        for (int r = 0; r < kTogether; ++r) sums[l] += weights[r] * rows[r][from + l];
    }
  }
}

}  // namespace
}  // namespace ops
