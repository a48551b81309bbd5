// Copies a rectangle.
//
//   into[into_offset + i·into_stride + j] = x[x_offset + i·x_stride + j]      i < rows, j < row_bytes
//
//   x, into                     any dtype; offsets and strides in bytes; not the same buffer
//   cost                        2 bytes moved a byte
#pragma once
#include "../../core/args.h"

namespace ops {

struct PasteArgs {
  const uint8_t* x;
  uint8_t* into;
  int64_t x_offset, x_stride, into_offset, into_stride;
  int64_t rows, row_bytes;
  template <class V>
  void fields(V& v) {
    v("x", x), v("into", into), v("xOffset", x_offset), v("xStride", x_stride), v("intoOffset", into_offset);
    v("intoStride", into_stride), v("rows", rows), v("rowBytes", row_bytes);
  }
};

void paste(const PasteArgs& args);

}  // namespace ops
