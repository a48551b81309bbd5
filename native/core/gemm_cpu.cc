#include "gemm.h"
#include "gemm_kernel.h"

namespace ops {

template <>
GemmKernel<float> gemm_kernel_portable() {
  return {4, 2 * 4, gemm_tile<float, 16, 4, 2>};
}

template <>
GemmKernel<double> gemm_kernel_portable() {
  return {4, 2 * 2, gemm_tile<double, 16, 4, 2>};
}

}  // namespace ops
