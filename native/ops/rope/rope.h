// Rotary position embedding, the form that pairs element i of a head with element i + e/2.
//
//   out[t, h, i]       = x[t, h, i]·c − x[t, h, i + e/2]·s
//   out[t, h, i + e/2] = x[t, h, i + e/2]·c + x[t, h, i]·s      c = cos[positions[t], i], s = sin[positions[t], i]
//
//   x, out     f32 or bf16 [t, heads·e]   out may be x; turned in f32
//   cos, sin   f32 [length, e/2]
//   positions  i32 [t]            0 ≤ position < length; another one is an error. Absent: row t is at position t mod length
//   cost       8 bytes moved an element, 4 in bf16
//
// Su et al., RoFormer (arXiv:2104.09864), section 3.2.2, with the pairs laid out as in Llama checkpoints of Hugging Face.
#pragma once
#include "../../core/args.h"

namespace ops {

struct RopeArgs {
  const uint8_t* x;          // [t, heads, 2·half]
  const float* cos;          // [length, half]
  const float* sin;          // [length, half]
  const int32_t* positions;  // [t], or null
  uint8_t* out;              // [t, heads, 2·half]
  int64_t t, heads, half, length;
  bool bf16;
  template <class V>
  void fields(V& v) {
    v("x", x), v("cos", cos), v("sin", sin), v("positions", positions, optional), v("out", out);
    v("t", t), v("heads", heads), v("half", half), v("length", length), v("bf16", bf16);
  }
};

void rope(const RopeArgs& args);

}  // namespace ops
