// Zeros.
//
//   out[i] = 0
//
//   out   any [bytes]
//   cost  1 byte moved a byte
#pragma once
#include "../../core/args.h"

namespace ops {

struct ZerosArgs {
  uint8_t* out;  // [bytes]
  int64_t bytes;
  template <class V>
  void fields(V& v) {
    v("out", out), v("bytes", bytes);
  }
};

void zeros(const ZerosArgs& args);

}  // namespace ops
