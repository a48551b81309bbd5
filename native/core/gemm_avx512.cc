#include "gemm.h"
#include "gemm_kernel.h"

namespace ops {

template <>
GemmKernel<float> gemm_kernel_avx512() {
  return {14, 2 * 16, gemm_tile<float, 64, 14, 2>};
}

template <>
GemmKernel<double> gemm_kernel_avx512() {
  return {14, 2 * 8, gemm_tile<double, 64, 14, 2>};
}

}  // namespace ops
