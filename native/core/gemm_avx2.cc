#include "gemm.h"
#include "gemm_kernel.h"

namespace ops {

GemmKernel gemm_kernel_avx2() {
  return {6, 16, gemm_packed<8, 6, 2>, 4, gemm_tile<8, 4, 2, false>, gemm_tile<8, 4, 1, false>,
          gemm_dots_of<8, float>, gemm_dots_of<8, uint16_t>, 8};
}

}  // namespace ops
