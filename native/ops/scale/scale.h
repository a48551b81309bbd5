// Scales rows and columns.
//
//   out[i, j] = x[i, j] · rows[i] · columns[j] · factor · by      factor · by in f64, the rest in f32
//
//   x, out    f32 [m, n]   may be the same buffer
//   rows      f32 [m], or null: all 1
//   columns   f32 [n], or null: all 1
//   by        f64 [1], or null: 1; a factor that an op found
//   cost      8 bytes moved an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct ScaleArgs {
  const float* x;        // [m, n]
  const float* rows;     // [m] or null
  const float* columns;  // [n] or null
  const double* by;      // [1] or null
  float* out;            // [m, n]
  int64_t m, n;
  double factor;
  template <class V>
  void fields(V& v) {
    v("x", x), v("rows", rows, optional), v("columns", columns, optional), v("by", by, optional), v("out", out), v("m", m), v("n", n),
        v("factor", factor);
  }
};

void scale(const ScaleArgs& args);

}  // namespace ops
