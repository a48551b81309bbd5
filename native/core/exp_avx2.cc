#include "exp.h"
#include "exp_kernel.h"

namespace ops {

void exp_all_avx2(const float* x, float scale, float shift, float* out, int64_t n) { Lanes<32>::exp_all(x, scale, shift, out, n); }

}  // namespace ops
