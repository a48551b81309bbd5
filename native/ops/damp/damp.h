// Damping.
//
//   out = h + damp · mean(diag h) · I
//
//   h, out  f32 [n, n]   may be the same buffer
//   cost    8 bytes moved an element
//
// QTIP (arXiv:2406.11235), as in its Hessian loading: H/d + σI, times d again, with d = mean(diag H).
#pragma once
#include "../../core/args.h"

namespace ops {

struct DampArgs {
  const float* h;  // [n, n]
  float* out;      // [n, n]
  int64_t n;
  double damp;
  template <class V>
  void fields(V& v) {
    v("h", h), v("out", out), v("n", n), v("damp", damp);
  }
};

void damp(const DampArgs& args);

}  // namespace ops
