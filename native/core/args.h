// defines: how an op declares its arguments.
//
//   struct AddArgs {
//     const float* x;      // [n]
//     const float* bias;   // [n], or null
//     float* out;          // [n]
//     int64_t n;
//     float alpha;
//     template <class V> void fields(V& v) {
//       v("x", x); v("bias", bias, optional); v("out", out); v("n", n); v("alpha", alpha);
//     }
//   };
//   void add(const AddArgs&);
//
// A pointer to const is a tensor that is read, another pointer one that is written (or read and written). Tensors
// must match the pointer's type: float f32 · double f64 · uint16_t f16, bf16 or u16 · int64_t i64 · int32_t i32 ·
// int16_t i16 · int8_t i8 · uint8_t any. All are required unless marked optional; an absent one is null.
// Numbers: int64_t, int32_t (whole), float, double, bool.
#pragma once
#include <cstdint>

namespace ops {

struct Optional {};
inline constexpr Optional optional{};

}  // namespace ops
