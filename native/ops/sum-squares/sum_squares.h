// Sum of squares.
//
//   out[0] = Σ x[i]²      in f64; the order of summation does not depend on the number of threads
//
//   x     f32 [n]
//   out   f64 [1]
//   cost  4 bytes read an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct SumSquaresArgs {
  const float* x;  // [n]
  double* out;     // [1]
  int64_t n;
  template <class V>
  void fields(V& v) {
    v("x", x), v("out", out), v("n", n);
  }
};

void sum_squares(const SumSquaresArgs& args);

}  // namespace ops
