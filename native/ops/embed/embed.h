// Rows of a table.
//
//   out[i, :] = table[ids[i], :]
//
//   table  [v, ·]   rows of `bytes` bytes, of any element type
//   ids    i32 [t]  0 ≤ id < v; another one is an error, or in a recorded program on a GPU a row of NaN
//   out    [t, ·]   as table; f32, where the table is bf16 and is to be widened
//   cost   2·bytes moved a row
#pragma once
#include "../../core/args.h"

namespace ops {

struct EmbedArgs {
  const uint8_t* table;  // [v, bytes]
  const int32_t* ids;    // [t]
  uint8_t* out;          // [t, bytes], widened [t, 2·bytes]
  int64_t t, v, bytes;
  bool widen;  // from bf16 to f32
  template <class V>
  void fields(V& visit) {
    visit("table", table), visit("ids", ids), visit("out", out), visit("t", t), visit("v", v), visit("bytes", bytes);
    visit("widen", widen);
  }
};

void embed(const EmbedArgs& args);

}  // namespace ops
