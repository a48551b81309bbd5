#include "gemm.h"
#include "gemm_kernel.h"

namespace ops {

GemmKernel gemm_kernel_avx512() {
  return {14, 32, gemm_packed<16, 14, 2>, 8, gemm_tile<16, 8, 2, false>, gemm_tile<16, 8, 1, false>,
          gemm_dots_of<16, float>, gemm_dots_of<16, uint16_t>, 16};
}

}  // namespace ops
