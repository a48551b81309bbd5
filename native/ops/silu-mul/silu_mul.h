// The gate of a SwiGLU feed-forward layer.
//
//   out[i] = gate[i] / (1 + e^(−gate[i])) · up[i]
//
//   gate, up, out  f32 or bf16 [n]   out may be gate or up; computed in f32
//   cost           12 bytes moved an element, 6 in bf16
//
// Shazeer, GLU Variants Improve Transformer (arXiv:2002.05202), equation 6.
#pragma once
#include "../../core/args.h"

namespace ops {

struct SiluMulArgs {
  const uint8_t* gate;  // [n]
  const uint8_t* up;    // [n]
  uint8_t* out;         // [n]
  int64_t n;
  bool bf16;
  template <class V>
  void fields(V& v) {
    v("gate", gate), v("up", up), v("out", out), v("n", n), v("bf16", bf16);
  }
};

void silu_mul(const SiluMulArgs& args);

}  // namespace ops
