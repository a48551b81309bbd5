#include "hadamard_kernel.h"

namespace ops {

HadamardKernel hadamard_kernel_avx2() { return {rows<8, 8>, stages<8, 8>, strip<8>}; }

}  // namespace ops
