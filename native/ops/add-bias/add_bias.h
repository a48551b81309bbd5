// The same vector added to every row.
//
//   out[t, j] = x[t, j] + bias[j]
//
//   x, out  f32 [t, n]   out may be x
//   bias    f32 [n]
//   cost    8 bytes moved an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct AddBiasArgs {
  const float* x;     // [t, n]
  const float* bias;  // [n]
  float* out;         // [t, n]
  int64_t t, n;
  template <class V>
  void fields(V& v) {
    v("x", x), v("bias", bias), v("out", out), v("t", t), v("n", n);
  }
};

void add_bias(const AddBiasArgs& args);

}  // namespace ops
