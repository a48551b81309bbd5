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
  // sums[i] = Σ_l x[i·ldx + l]·w[l], i < m ≤ kFewRows: a row of weights as it streams by. _bf16: w is bf16, and of each `pairs` pairs of
  // neighbours in x the first of all come first, then the second; what is left of k is in order.
  void (*dots)(int64_t k, const float* x, int64_t ldx, int m, const float* w, float* sums);
  void (*dots_bf16)(int64_t k, const float* x, int64_t ldx, int m, const uint16_t* w, float* sums);
  int pairs;
};

// Rows of x up to which x·Wᵀ reads W as it lies in memory, once.
inline constexpr int kFewRows = 16;

// Elements of the largest tile.
inline constexpr int kGemmTile = 32 * 32;

// The one for the device's instruction set.
GemmKernel choose_gemm_kernel();

// y[i·ldy + j] = alpha·Σ_l x[i·ldx + l]·w[j·ldw + l] + beta·y[i·ldy + j], i < m ≤ kFewRows, j < n: w f32, or bf16.
void gemm_few_rows(int64_t m, int64_t n, int64_t k, float alpha, const float* x, int64_t ldx, const float* w, int64_t ldw, float beta, float* y,
                   int64_t ldy);
void gemm_few_rows(int64_t m, int64_t n, int64_t k, float alpha, const float* x, int64_t ldx, const uint16_t* w, int64_t ldw, float beta,
                   float* y, int64_t ldy);

GemmKernel gemm_kernel_portable();
GemmKernel gemm_kernel_avx2();
GemmKernel gemm_kernel_avx512();

}  // namespace ops
