// The way back through silu_mul (ops/silu-mul): with σ = 1/(1 + e^(−gate)),
//
//   dGate[i] = dy[i]·up[i]·σ·(1 + gate[i]·(1 − σ))
//   dUp[i]   = dy[i]·gate[i]·σ
//
//   gate, up, dy, dGate, dUp  f32 [n]   dGate and dUp may be any of the inputs
//   cost                      20 bytes moved and one exponential an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct SiluMulBackwardArgs {
  const float* gate;  // [n]
  const float* up;    // [n]
  const float* dy;    // [n]
  float* d_gate;      // [n]
  float* d_up;        // [n]
  int64_t n;
  template <class V>
  void fields(V& v) {
    v("gate", gate), v("up", up), v("dy", dy), v("dGate", d_gate), v("dUp", d_up), v("n", n);
  }
};

void silu_mul_backward(const SiluMulBackwardArgs& args);

}  // namespace ops
