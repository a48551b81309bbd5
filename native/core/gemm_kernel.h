// defines: the GEMM micro-kernel in GCC's vector extensions. Each translation unit compiles it for its instruction set.
#pragma once
#include <cstdint>
#include <cstring>

namespace ops {
namespace {

// MR × NV vectors of accumulators stay in registers. BYTES is a vector's size.
template <class T, int BYTES, int MR, int NV>
void gemm_tile(int64_t k, const T* a, const T* b, T alpha, T beta, T* c, int64_t ldc) {
  typedef T Vector __attribute__((vector_size(BYTES)));
  typedef T Unaligned __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
  constexpr int W = BYTES / sizeof(T);
  Vector sum[MR][NV] = {};
  for (int64_t l = 0; l < k; ++l) {
    Vector row[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) row[j] = *reinterpret_cast<const Unaligned*>(b + l * (NV * W) + j * W);
#pragma GCC unroll 32
    for (int i = 0; i < MR; ++i) {
      const T x = a[l * MR + i];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
      auto* to = reinterpret_cast<Unaligned*>(c + i * ldc + j * W);
      if (beta == T(0)) *to = alpha * sum[i][j];
      else *to = alpha * sum[i][j] + beta * *to;
    }
  }
}

}  // namespace
}  // namespace ops
