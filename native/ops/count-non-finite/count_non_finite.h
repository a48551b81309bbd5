// Counts what is NaN or infinite.
//
//   out[0] = |{ i : x[i] is NaN, +∞ or −∞ }|
//
//   x     f32, f64, f16 or bf16 [n]
//   out   f64 [1]
//   cost  the bytes of x, read once
#pragma once
#include "../../core/args.h"

namespace ops {

struct CountNonFiniteArgs {
  const uint8_t* x;  // [n]
  double* out;       // [1]
  int64_t n;
  int64_t size;      // bytes of an element: 2, 4, 8
  int64_t exponent;  // the bits of an element that are all set in NaN and ±∞; for size 8 those of its upper half
  template <class V>
  void fields(V& v) {
    v("x", x), v("out", out), v("n", n), v("size", size), v("exponent", exponent);
  }
};

void count_non_finite(const CountNonFiniteArgs& args);

}  // namespace ops
