// defines: the built-in GEMM's micro-kernels, one set an instruction set.
//
// A micro-kernel makes one mr × nr tile of A·B from packed panels: a [k][mr], b [k][nr], both contiguous.
#pragma once
#include <cstdint>

namespace ops {

template <class T>
struct GemmKernel {
  int mr, nr;
  // c[i·ldc + j] = alpha·Σ_l a[l·mr + i]·b[l·nr + j] + beta·c[i·ldc + j], for the full tile
  void (*run)(int64_t k, const T* a, const T* b, T alpha, T beta, T* c, int64_t ldc);
};

// Elements of the largest mr × nr tile.
inline constexpr int kGemmTile = 32 * 64;

// The one for the device's instruction set.
template <class T>
GemmKernel<T> choose_gemm_kernel();

template <class T>
GemmKernel<T> gemm_kernel_portable();
template <class T>
GemmKernel<T> gemm_kernel_avx2();
template <class T>
GemmKernel<T> gemm_kernel_avx512();

}  // namespace ops
