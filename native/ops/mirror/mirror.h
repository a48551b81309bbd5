// A symmetric matrix from its half on and above the diagonal, scaled; in place.
//
//   h[i, j] = factor · h[i, j]      i ≤ j
//   h[j, i] = h[i, j]
//
//   h     f32 [n, n]
//   cost  8 bytes moved an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct MirrorArgs {
  float* h;  // [n, n]
  int64_t n;
  float factor;
  template <class V>
  void fields(V& v) {
    v("h", h), v("n", n), v("factor", factor);
  }
};

void mirror(const MirrorArgs& args);

}  // namespace ops
