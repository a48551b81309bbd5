// defines: the GEMM micro-kernels in GCC's vector extensions. Each translation unit compiles them for its instruction set.
#pragma once
#include <bit>
#include <cstdint>

#include "half.h"

namespace ops {
namespace {

// MR × NV vectors of W floats are summed in registers. a(i, l) is a[l·MR + i] if PACKED, else a[i·lda + l]; b [k][NV·W].
template <int W, int MR, int NV, bool PACKED>
void gemm_tile(int64_t k, const float* a, int64_t lda, const float* b, float alpha, float beta, float* c, int64_t ldc) {
  typedef float Vector __attribute__((vector_size(4 * W)));
  typedef float Memory __attribute__((vector_size(4 * W), aligned(4), may_alias));
  Vector sum[MR][NV] = {};
  for (int64_t l = 0; l < k; ++l) {
    Vector row[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) row[j] = *reinterpret_cast<const Memory*>(b + (l * NV + j) * W);
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i) {
      const float x = PACKED ? a[l * MR + i] : a[i * lda + l];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      Memory* to = reinterpret_cast<Memory*>(c + i * ldc + j * W);
      if (beta == 0.f) *to = alpha * sum[i][j];
      else *to = alpha * sum[i][j] + beta * *to;
    }
  }
}

template <int W, int MR, int NV>
void gemm_packed(int64_t k, const float* a, const float* b, float alpha, float beta, float* c, int64_t ldc) {
  gemm_tile<W, MR, NV, true>(k, a, 0, b, alpha, beta, c, ldc);
}

// A row of weights times M rows of x, each in the same order whatever M is: four chains of additions hide each other's latency.
template <int W, int M>
void gemm_dots(int64_t k, const float* x, int64_t ldx, const float* w, float* sums) {
  typedef float Vector __attribute__((vector_size(4 * W)));
  typedef float Memory __attribute__((vector_size(4 * W), aligned(4), may_alias));
  constexpr int chains = 4;
  Vector sum[M][chains] = {};
  int64_t l = 0;
  for (; l + chains * W <= k; l += chains * W) {
#pragma GCC unroll 4
    for (int q = 0; q < chains; ++q) {
      const Vector row = *reinterpret_cast<const Memory*>(w + l + q * W);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) sum[i][q] += row * *reinterpret_cast<const Memory*>(x + i * ldx + l + q * W);
    }
  }
  for (int i = 0; i < M; ++i) {
    Vector all = sum[i][0];
    for (int q = 1; q < chains; ++q) all += sum[i][q];
    float total = 0;
    float lanes[W];
    *reinterpret_cast<Memory*>(lanes) = all;
    for (const float lane : lanes) total += lane;
    for (int64_t rest = l; rest < k; ++rest) total += x[i * ldx + rest] * w[rest];
    sums[i] = total;
  }
}

// The same with bf16: a 32-bit word is two of them, and each is an f32 whose other half is zero.
template <int W, int M>
void gemm_dots(int64_t k, const float* x, int64_t ldx, const uint16_t* w, float* sums) {
  typedef float Vector __attribute__((vector_size(4 * W)));
  typedef float Memory __attribute__((vector_size(4 * W), aligned(4), may_alias));
  typedef uint32_t Words __attribute__((vector_size(4 * W)));
  typedef uint32_t WordsMemory __attribute__((vector_size(4 * W), aligned(2), may_alias));
  constexpr int unrolled = 2;
  Vector sum[M][unrolled][2] = {};
  int64_t l = 0;
  for (; l + unrolled * 2 * W <= k; l += unrolled * 2 * W) {
#pragma GCC unroll 2
    for (int q = 0; q < unrolled; ++q) {
      const Words both = *reinterpret_cast<const WordsMemory*>(w + l + q * 2 * W);
      const Vector first = reinterpret_cast<Vector>(both << 16), second = reinterpret_cast<Vector>(both & 0xffff0000u);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
        const float* const at = x + i * ldx + l + q * 2 * W;
        sum[i][q][0] += first * *reinterpret_cast<const Memory*>(at);
        sum[i][q][1] += second * *reinterpret_cast<const Memory*>(at + W);
      }
    }
  }
  for (int i = 0; i < M; ++i) {
    const Vector all = (sum[i][0][0] + sum[i][0][1]) + (sum[i][1][0] + sum[i][1][1]);
    float total = 0;
    float lanes[W];
    *reinterpret_cast<Memory*>(lanes) = all;
    for (const float lane : lanes) total += lane;
    for (int64_t rest = l; rest < k; ++rest) {
      // In whole groups of 2·W that were left over x is still two by two apart.
      const int64_t group = rest / (2 * W) * (2 * W), e = rest - group;
      const float value = x[i * ldx + (group + 2 * W <= k ? group + e % 2 * W + e / 2 : rest)];
      total += value * bf16_to_f32(w[rest]);
    }
    sums[i] = total;
  }
}

template <int W, class T>
void gemm_dots_of(int64_t k, const float* x, int64_t ldx, int m, const T* w, float* sums) {
  for (; m >= 4; m -= 4, x += 4 * ldx, sums += 4) gemm_dots<W, 4>(k, x, ldx, w, sums);
  if (m & 2) gemm_dots<W, 2>(k, x, ldx, w, sums), x += 2 * ldx, sums += 2;
  if (m & 1) gemm_dots<W, 1>(k, x, ldx, w, sums);
}

}  // namespace
}  // namespace ops
