// The gate of a SwiGLU feed-forward layer.
//
//   out[i] = gate[i] / (1 + e^(−gate[i])) · up[i]
//
//   gate, up, out  f32 [n]   out may be gate or up
//   cost           12 bytes moved an element
//
// Shazeer, GLU Variants Improve Transformer (arXiv:2002.05202), equation 6.
#pragma once
#include "../../core/args.h"

namespace ops {

struct SiluMulArgs {
  const float* gate;  // [n]
  const float* up;    // [n]
  float* out;         // [n]
  int64_t n;
  template <class V>
  void fields(V& v) {
    v("gate", gate), v("up", up), v("out", out), v("n", n);
  }
};

void silu_mul(const SiluMulArgs& args);

}  // namespace ops
