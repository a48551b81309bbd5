// Transpose.
//
//   out[j, i] = x[i, j]
//
//   x [m, n], out [n, m]   elements of `size` bytes: 1, 2, 4 or 8; not the same buffer
//   cost                   2 bytes moved a byte
#pragma once
#include "../../core/args.h"

namespace ops {

struct TransposeArgs {
  const uint8_t* x;  // [m, n]
  uint8_t* out;      // [n, m]
  int64_t m, n, size;
  template <class V>
  void fields(V& v) {
    v("x", x), v("out", out), v("m", m), v("n", n), v("size", size);
  }
};

void transpose(const TransposeArgs& args);

}  // namespace ops
