#include "exp.h"
#include "exp_kernel.h"
#include "parallel.h"

namespace ops {

void exp_all(const float* x, float scale, float shift, float* out, int64_t n) {
#if defined(__x86_64__)
  if (context().level == Level::avx512) return exp_all_avx512(x, scale, shift, out, n);
  if (context().level == Level::avx2) return exp_all_avx2(x, scale, shift, out, n);
#endif
  Lanes<16>::exp_all(x, scale, shift, out, n);
}

}  // namespace ops
