// Weighted sum.
//
//   out[i] = alpha·x[i] + beta·y[i]
//
//   x, y, out  f32 [n]   out may be x or y
//   cost       12 bytes moved an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct AddArgs {
  const float* x;  // [n]
  const float* y;  // [n]
  float* out;      // [n]
  int64_t n;
  float alpha, beta;
  template <class V>
  void fields(V& v) {
    v("x", x), v("y", y), v("out", out), v("n", n), v("alpha", alpha), v("beta", beta);
  }
};

void add(const AddArgs& args);

}  // namespace ops
