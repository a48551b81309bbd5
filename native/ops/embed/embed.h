// Rows of a table.
//
//   out[i, :] = table[ids[i], :]
//
//   table  [v, ·]   rows of `bytes` bytes, of any element type
//   ids    i32 [t]  0 ≤ id < v; another one is an error, or in a recorded program on a GPU a row of NaN
//   out    [t, ·]   as table
//   cost   2·bytes moved a row
#pragma once
#include "../../core/args.h"

namespace ops {

struct EmbedArgs {
  const uint8_t* table;  // [v, bytes]
  const int32_t* ids;    // [t]
  uint8_t* out;          // [t, bytes]
  int64_t t, v, bytes;
  template <class V>
  void fields(V& visit) {
    visit("table", table), visit("ids", ids), visit("out", out), visit("t", t), visit("v", v), visit("bytes", bytes);
  }
};

void embed(const EmbedArgs& args);

}  // namespace ops
