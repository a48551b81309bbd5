// defines: ops::exp_all, e^x of many numbers.
#pragma once
#include <cstdint>

namespace ops {

// out[i] = e^(scale·x[i] + shift), within 2 units in the last place; the exponent is held to [-87.3, 88.3]. out may be x.
void exp_all(const float* x, float scale, float shift, float* out, int64_t n);

void exp_all_avx2(const float* x, float scale, float shift, float* out, int64_t n);
void exp_all_avx512(const float* x, float scale, float shift, float* out, int64_t n);

}  // namespace ops
