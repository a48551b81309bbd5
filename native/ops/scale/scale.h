// Scales rows and columns.
//
//   out[i, j] = x[i, j] · rows[i] · columns[j] · factor
//
//   x, out    f32 [m, n]   may be the same buffer
//   rows      f32 [m], or null: all 1
//   columns   f32 [n], or null: all 1
//   cost      8 bytes moved an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct ScaleArgs {
  const float* x;        // [m, n]
  const float* rows;     // [m] or null
  const float* columns;  // [n] or null
  float* out;            // [m, n]
  int64_t m, n;
  float factor;
  template <class V>
  void fields(V& v) {
    v("x", x), v("rows", rows, optional), v("columns", columns, optional), v("out", out), v("m", m), v("n", n), v("factor", factor);
  }
};

void scale(const ScaleArgs& args);

}  // namespace ops
