// Root mean square normalisation of groups along the last axis.
//
//   out[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · weight
//
//   x, out  f32 or bf16, each [rows, n]   a row is a group: a token, or one head of a token; out may be x; computed in f32
//   weight  f32 [n]
//   cost    the bytes of x and out
//
// Zhang and Sennrich, Root Mean Square Layer Normalization (arXiv:1910.07467), equation 4.
#pragma once
#include "../../core/args.h"

namespace ops {

struct RmsnormArgs {
  const uint8_t* x;     // [rows, n]
  const float* weight;  // [n]
  uint8_t* out;         // [rows, n]
  int64_t rows, n;
  float eps;
  bool x_bf16, out_bf16;
  template <class V>
  void fields(V& v) {
    v("x", x), v("weight", weight), v("out", out), v("rows", rows), v("n", n), v("eps", eps), v("xBf16", x_bf16);
    v("outBf16", out_bf16);
  }
};

void rmsnorm(const RmsnormArgs& args);

}  // namespace ops
