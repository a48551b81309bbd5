#include "gemm.h"
#include "gemm_kernel.h"

namespace ops {

GemmKernel gemm_kernel_portable() {
  return {4, 8, gemm_packed<4, 4, 2>, 4, gemm_tile<4, 4, 2, false>, gemm_tile<4, 4, 1, false>,
          gemm_dots_of<4, float>, gemm_dots_of<4, uint16_t>, 4};
}

}  // namespace ops
