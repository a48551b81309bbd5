// The gradient by a table whose rows were looked up, added into `into`:
//
//   into[ids[i], :] += dy[i, :]      for i = 0 … t−1, in this order
//
//   dy    f32 [t, d]
//   ids   i32 [t]     0 ≤ id < v; another one is an error
//   into  f32 [v, d]
//   cost  12 bytes moved an element of dy
#pragma once
#include "../../core/args.h"

namespace ops {

struct EmbedGradientArgs {
  const float* dy;     // [t, d]
  const int32_t* ids;  // [t]
  float* into;         // [v, d]
  int64_t t, v, d;
  template <class V>
  void fields(V& visit) {
    visit("dy", dy), visit("ids", ids), visit("into", into), visit("t", t), visit("v", v), visit("d", d);
  }
};

void embed_gradient(const EmbedGradientArgs& args);

}  // namespace ops
