#include "hadamard_kernel.h"

namespace ops {

HadamardKernel hadamard_kernel_avx512() { return {rows<16, 16>, stages<16, 16>, strip<16>}; }

}  // namespace ops
