// A matrix whose weights stay packed as the states of a trellis code, times up to 16 vectors. L = 16, tiles of 16 × 16.
//
//   y[b, i] = Σ_j ŵ(i, j)·x[b, j]      ŵ: the value of the state that the weight was rounded to (codes: product_code.h), without a scale
//
//   packed    i16 [tiles, 16·K]        as stored, tiles row-major over [rows/16, columns/16]; a tile's states are a circular string of bits
//   arranged  u8 [⌈rows/32⌉·32 · ⌈columns/64⌉·64 · K/8]   the same in the order in which the kernels read it: each backend has its own
//   x f32 [t, columns], y f32 [t, rows]
//
//   cost      K/8 bytes and a state's value a weight; on the CPU about as many vector instructions as README.md counts
//   accuracy  f32: NMSE ≤ 1e-12 against decoded weights; with a table of hyb of which not all is whole in its units (hyb-table.ts) 1e-9 on a CPU.
//             int8 (CPU): each row of x rounded to 8 bits, and hyb's table too: README.md.
#pragma once
#include <cstdint>

#include "../../core/args.h"

namespace ops {

// The codes that there is a kernel for, as product.ts numbers them.
enum class ProductCode : int64_t { hyb, mad1, inst3, mul1, mcg };

struct TrellisArrangeArgs {
  const int16_t* packed;  // [rows/16 · columns/16, 16·K]
  uint8_t* arranged;
  int64_t rows, columns, K, code;
  bool tensor_core;       // weights of a tile follow each other as in kernel-layout.ts
  template <class Visitor> void fields(Visitor& v) {
    v("packed", packed), v("arranged", arranged), v("rows", rows), v("columns", columns), v("K", K), v("code", code);
    v("tensorCore", tensor_core);
  }
};
void trellis_arrange(const TrellisArrangeArgs& args);

struct TrellisProductArgs {
  const float* x;           // [t, columns]
  const uint8_t* arranged;
  const uint16_t* entries;  // f16 [512, 2], of hyb alone
  float* y;                 // [t, rows]
  int64_t t, rows, columns, K, code;
  bool tensor_core, int8;
  template <class Visitor> void fields(Visitor& v) {
    v("x", x), v("arranged", arranged), v("entries", entries, optional), v("y", y), v("t", t), v("rows", rows), v("columns", columns);
    v("K", K), v("code", code), v("tensorCore", tensor_core), v("int8", int8);
  }
};
void trellis_product(const TrellisProductArgs& args);

}  // namespace ops
