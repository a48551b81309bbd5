// Dot products of the columns of two matrices, added into a vector: gradients of a bias, and of a scale of columns.
//
//   into[j] += Σ_t x[t, j]·y[t, j]
//
//   x     f32 [t, n]
//   y     f32 [t, n], or null: all 1
//   into  f32 [n]
//   cost  8 bytes moved and a multiply-add an element; sums in a fixed order
#pragma once
#include "../../core/args.h"

namespace ops {

struct ColumnDotsArgs {
  const float* x;  // [t, n]
  const float* y;  // [t, n] or null
  float* into;     // [n]
  int64_t t, n;
  template <class V>
  void fields(V& v) {
    v("x", x), v("y", y, optional), v("into", into), v("t", t), v("n", n);
  }
};

void column_dots(const ColumnDotsArgs& args);

}  // namespace ops
