// Sum of outer products.
//
//   h += Σ_t x[t, :]ᵀ · x[t, :]      over the rows t in which every element is finite
//   skipped[0] += the number of other rows
//
//   x        f32 [t, n]   then h is f64, symmetric before and after, to the bit; products of at most 512 rows are summed in
//                         f32, their sums in f64: the relative error stays that of 512 additions
//            bf16 [t, n]  then h is f32 and summed in f32, on tensor cores where there are; only its elements on and above
//                         the diagonal mean something (mirror completes it). Rows left out are set to 0 in x.
//   h        [n, n]
//   skipped  f64 [1]
//   cost     t·n² operations (half of a product's, by symmetry), and 16 bytes moved an element of h, 4 with bf16
#pragma once
#include "../../core/args.h"

namespace ops {

struct GramArgs {
  uint8_t* h;       // [n, n]
  uint8_t* x;       // [t, n]
  double* skipped;  // [1]
  int64_t t, n;
  bool bf16;
  template <class V>
  void fields(V& v) {
    v("h", h), v("x", x), v("skipped", skipped), v("t", t), v("n", n), v("bf16", bf16);
  }
};

void gram(const GramArgs& args);

}  // namespace ops
