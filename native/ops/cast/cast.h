// Conversion of element types.
//
//   out[i] = x[first + i]      rounded to nearest even where `to` is narrower; too large gives infinity
//
//   x, out     [first + n], [n]   of types from, to: f64, f32, f16, bf16 each way; i32, i16, u16, i8, u8 to f32
//   cost       the bytes of x and out
#pragma once
#include "../../core/args.h"

namespace ops {

// Numbers as in cast.ts.
enum class DType : int32_t { f64, f32, f16, bf16, i32, i16, u16, i8, u8 };

struct CastArgs {
  const uint8_t* x;  // [first + n] of `from`
  uint8_t* out;      // [n] of `to`
  int32_t from, to;  // DType
  int64_t first, n;
  template <class V>
  void fields(V& v) {
    v("x", x), v("out", out), v("from", from), v("to", to), v("first", first), v("n", n);
  }
};

void cast(const CastArgs& args);

// cast_avx2.cc
void f16_to_f32_avx2(const uint16_t* x, float* out, int64_t n);
void f32_to_f16_avx2(const float* x, uint16_t* out, int64_t n);

}  // namespace ops
