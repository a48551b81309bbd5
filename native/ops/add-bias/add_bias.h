// The same vector added to every row.
//
//   out[t, j] = x[t, j] + bias[j]
//
//   x, out  f32 or bf16 [t, n]   out may be x; the sum is in f32
//   bias    f32 [n]
//   cost    8 bytes moved an element, 4 in bf16
#pragma once
#include "../../core/args.h"

namespace ops {

struct AddBiasArgs {
  const uint8_t* x;   // [t, n]
  const float* bias;  // [n]
  uint8_t* out;       // [t, n]
  int64_t t, n;
  bool bf16;
  template <class V>
  void fields(V& v) {
    v("x", x), v("bias", bias), v("out", out), v("t", t), v("n", n), v("bf16", bf16);
  }
};

void add_bias(const AddBiasArgs& args);

}  // namespace ops
