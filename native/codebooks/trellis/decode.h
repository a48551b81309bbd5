// Rows of a packed matrix as numbers, from the layout that products read: what a prompt multiplies by.
//
//   values[i, j] = ŵ(first + i, j)      ŵ as in product.h
//
//   arranged  u8, of a matrix [rows, columns], as trellis_arrange leaves it
//   values    f32 [count, columns]: what decoding from the stored form gives; or that rounded to f16, as published decoders have it
//   first     a multiple of 32
//
//   cost      K/8 bytes read, 2 or 4 written and a state's value a weight; on a GPU what is written bounds it
#pragma once
#include <cstdint>

#include "../../core/args.h"

namespace ops {

struct TrellisDecodeArgs {
  const uint8_t* arranged;
  const uint16_t* entries;  // f16 [512, 2], of hyb alone
  uint8_t* values;
  int64_t rows, columns, first, count, K, code;
  bool tensor_core, f16;
  template <class Visitor> void fields(Visitor& v) {
    v("arranged", arranged), v("entries", entries, optional), v("values", values), v("rows", rows), v("columns", columns);
    v("first", first), v("count", count), v("K", K), v("code", code), v("tensorCore", tensor_core), v("f16", f16);
  }
};
void trellis_decode(const TrellisDecodeArgs& args);

}  // namespace ops
