// Root mean square normalisation of groups along the last axis.
//
//   out[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · weight
//
//   x, out  f32 [rows, n]   a row is a group: a token, or one head of a token; out may be x
//   weight  f32 [n]
//   cost    8 bytes moved an element
//
// Zhang and Sennrich, Root Mean Square Layer Normalization (arXiv:1910.07467), equation 4.
#pragma once
#include "../../core/args.h"

namespace ops {

struct RmsnormArgs {
  const float* x;       // [rows, n]
  const float* weight;  // [n]
  float* out;           // [rows, n]
  int64_t rows, n;
  float eps;
  template <class V>
  void fields(V& v) {
    v("x", x), v("weight", weight), v("out", out), v("rows", rows), v("n", n), v("eps", eps);
  }
};

void rmsnorm(const RmsnormArgs& args);

}  // namespace ops
