// The gradient by the entries of a code's table: every weight adds its own to the entry it was read from.
//
//   into[row(s), c] += Σ ±dValues[i, j]      over the weights that are component c of a state s
//
//   codes    u16 [tiles, steps]   tiles row-major over [m, n] padded to whole tiles of Tx × Ty; steps = Tx·Ty/V
//   index    i32 [states]         row of a state, plus 2¹⁶ where its component 0 is negated (codebooks/tiles)
//   order    i32 [Tx·Ty]          the place in the sequence of each weight of a tile, row by row; null: row-major as well
//   dValues  f32 [m, n]
//   into     f32 [rows, V]
//   cost     4 + 2/V bytes and one scattered addition a weight; sums in f64 and a fixed order on the CPU, and in 64-bit
//            fixed point on CUDA, where any order gives the same
//
// A state or a row beyond its table is an error; on CUDA, where asking would stall the queue, NaN in all of `into`.
#pragma once
#include "../../core/args.h"

namespace ops {

struct TableGradientArgs {
  const uint16_t* codes;  // [tiles, steps]
  const int32_t* index;   // [states]
  const int32_t* order;   // [Tx·Ty] or null
  const float* d_values;  // [m, n]
  float* into;            // [rows, V]
  int64_t m, n, Tx, Ty, V, rows, states;
  template <class Visitor>
  void fields(Visitor& v) {
    v("codes", codes), v("index", index), v("order", order, optional), v("dValues", d_values), v("into", into);
    v("m", m), v("n", n), v("Tx", Tx), v("Ty", Ty), v("V", V), v("rows", rows), v("states", states);
  }
};

void table_gradient(const TableGradientArgs& args);

}  // namespace ops
