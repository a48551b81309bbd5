// Sum of outer products.
//
//   h += Σ_t x[t, :]ᵀ · x[t, :]      over the rows t in which every element is finite
//   skipped[0] += the number of other rows
//
//   x        f32 [t, n]
//   h        f64 [n, n]   symmetric before and after, to the bit
//   skipped  f64 [1]
//   products of at most 512 rows are summed in f32, their sums in f64: the relative error stays that of 512 additions
//   cost     t·n² operations (half of a product's, by symmetry), and 16 bytes moved an element of h
#pragma once
#include "../../core/args.h"

namespace ops {

struct GramArgs {
  double* h;        // [n, n]
  const float* x;   // [t, n]
  double* skipped;  // [1]
  int64_t t, n;
  template <class V>
  void fields(V& v) {
    v("h", h), v("x", x), v("skipped", skipped), v("t", t), v("n", n);
  }
};

void gram(const GramArgs& args);

}  // namespace ops
