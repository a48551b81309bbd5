// defines: the GEMM micro-kernels in GCC's vector extensions. Each translation unit compiles them for its instruction set.
#pragma once
#include <cstdint>

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

}  // namespace
}  // namespace ops
