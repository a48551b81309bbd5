// Block LDLᵀ decomposition.
//
//   h = (l + I) · blockdiag(D) · (l + I)ᵀ      by h = C·Cᵀ (Cholesky), l[:, i] = C[:, i] · C_ii⁻¹ below block i
//
//   h      f32 [n, n]   symmetric positive definite; only what is on and below the diagonal is read
//   l      f32 [n, n]   block lower triangular; its b × b diagonal blocks and all above are 0
//   pivot  f64 [2]      −1, 0; or the first row whose pivot is not positive (or NaN), and that pivot; then l is all 0
//   b      block, divides n
//   cost   n³/3 operations; no memory of order n² beyond l
//
// QuIP# (arXiv:2402.04396) section 4.1; QTIP (arXiv:2406.11235) section 4. C is f32; pivots and triangular solves are f64.
#pragma once
#include "../../core/args.h"

namespace ops {

struct BlockLdlArgs {
  const float* h;  // [n, n]
  float* l;        // [n, n]
  double* pivot;   // [2]
  int64_t n, block;
  template <class V>
  void fields(V& v) {
    v("h", h), v("l", l), v("pivot", pivot), v("n", n), v("block", block);
  }
};

void block_ldl(const BlockLdlArgs& args);

}  // namespace ops
