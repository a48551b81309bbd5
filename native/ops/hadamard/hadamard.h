// Randomized Hadamard transform from one side.
//
//   right:  out = x · diag(signs) · H              left:  out = Hᵀ · diag(signs) · x
//   right, inverse:  out = x · Hᵀ · diag(signs)    left, inverse:  out = diag(signs) · H · x
//
//   x, out  f32 [m, n]    not the same buffer
//   signs   f32 [n] (right) or [m] (left), ±1 or any scale; null: all 1
//   H       orthonormal, block diagonal with blocks (M ⊗ S)/√block: M of order `factor` (hadamard_matrix.h), S Sylvester's
//           of order block/factor, a power of two; block divides n (right) or m (left)
//   cost    log₂(block/factor) additions and `factor` multiply-adds an element; 8 bytes moved an element: one memcpy is the floor
//
// QuIP# (arXiv:2402.04396) section 3; QTIP (arXiv:2406.11235) section 3. The factors' order in ⊗ is that of the authors' code.
#pragma once
#include "../../core/args.h"

namespace ops {

struct HadamardArgs {
  const float* x;      // [m, n]
  const float* signs;  // [n] if right, [m] if left; or null
  float* out;          // [m, n]
  int64_t m, n, block, factor;
  bool left, inverse;
  template <class V>
  void fields(V& v) {
    v("x", x), v("signs", signs, optional), v("out", out), v("m", m), v("n", n), v("block", block), v("factor", factor);
    v("left", left), v("inverse", inverse);
  }
};

void hadamard(const HadamardArgs& args);

}  // namespace ops
