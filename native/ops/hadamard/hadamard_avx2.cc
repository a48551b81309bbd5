#include "hadamard_kernel.h"

namespace ops {

HadamardKernel hadamard_kernel_avx2() { return {butterflies<8, 8>, scale<8>}; }

}  // namespace ops
