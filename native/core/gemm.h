// defines: the built-in GEMM's micro-kernels, one set an instruction set.
#pragma once
#include <cstdint>

namespace ops {

struct GemmKernel {
  // c[i·ldc + j] = alpha·Σ_l a[l·mr + i]·b[l·nr + j] + beta·c[i·ldc + j] for i < mr, j < nr; a [k][mr] and b [k][nr] are
  // packed. beta = 0 never reads c.
  int mr, nr;
  void (*packed)(int64_t k, const float* a, const float* b, float alpha, float beta, float* c, int64_t ldc);
  // The same with a [rows][k] as it lies in memory: Σ_l a[i·lda + l]·b[l·nr + j], i < rows; `half` for j < nr/2, b [k][nr/2].
  int rows;
  void (*direct)(int64_t k, const float* a, int64_t lda, const float* b, float alpha, float beta, float* c, int64_t ldc);
  void (*half)(int64_t k, const float* a, int64_t lda, const float* b, float alpha, float beta, float* c, int64_t ldc);
};

// Elements of the largest tile.
inline constexpr int kGemmTile = 32 * 32;

// The one for the device's instruction set.
GemmKernel choose_gemm_kernel();

GemmKernel gemm_kernel_portable();
GemmKernel gemm_kernel_avx2();
GemmKernel gemm_kernel_avx512();

}  // namespace ops
