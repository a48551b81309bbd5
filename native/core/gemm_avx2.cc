#include "gemm.h"
#include "gemm_kernel.h"

namespace ops {

template <>
GemmKernel<float> gemm_kernel_avx2() {
  return {6, 2 * 8, gemm_tile<float, 32, 6, 2>};
}

template <>
GemmKernel<double> gemm_kernel_avx2() {
  return {6, 2 * 4, gemm_tile<double, 32, 6, 2>};
}

}  // namespace ops
