#include "hadamard_kernel.h"

namespace ops {

HadamardKernel hadamard_kernel_avx512() { return {butterflies<16, 16>, scale<16>}; }

}  // namespace ops
