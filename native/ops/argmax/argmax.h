// The most likely token of each row.
//
//   out[t] = the least j for which x[t, j] = max_k x[t, k]      NaN counts as less than every number; 0 where all are NaN
//
//   x     f32 [t, v]      v ≥ 1
//   out   i32 [t]
//   cost  4 bytes moved an element
#pragma once
#include "../../core/args.h"

namespace ops {

struct ArgmaxArgs {
  const float* x;  // [t, v]
  int32_t* out;    // [t]
  int64_t t, v;
  template <class V>
  void fields(V& visit) {
    visit("x", x), visit("out", out), visit("t", t), visit("v", v);
  }
};

void argmax(const ArgmaxArgs& args);

}  // namespace ops
