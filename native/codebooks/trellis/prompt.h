// Linears that read one x, whole, for more rows of it than a product takes: a prompt's.
//
//   x̃ = (u ⊙ su)·H       z = x̃·Ŵᵀ       y_i = (z_i·H_iᵀ) ⊙ sv_i + add_i        z_i: the rows of linear i, which follow each other in Ŵ
//
//   u         x; or x ⊙ weight/√(mean x² + eps); or silu(gate) ⊙ x, as in linear.h
//   x, gate   f32 [t, columns]; su f32 [columns]; sv_i f32 [rows_i]; add_i f32 [t, rows_i] or null; y_i f32 [t, rows_i]; rows_i = 0: no such linear
//   H, H_i    as in hadamard.h: block diagonal, of order `block`, (M ⊗ S)/√block with M of order `factor`
//
//   few rows  products of linear.h, one after the other
//   int8      (CPU) products too, of any number of rows: x̃ and hyb's table are rounded to 8 bits, as in product.h
//   more      on a GPU, up to some hundred: a kernel that decodes as it multiplies, for 128 rows at a time. Beyond, Ŵ is decoded (decode.h), a slice
//             of rows at a time, each of which is multiplied before the next
//   accuracy  NMSE ≤ 1e-9 against decoded weights (few rows: as product.h). On a GPU values of computed codes are rounded to f16 (more rows alone: NMSE
//             3e-8 to 6e-8), and x̃ is the sum of two f16 numbers in units of its row,
//             or one where `rounded`, and then sums on the way through H may be, too: NMSE about 1e-7
//   cost      2·t operations and a decoding a weight, and the transforms'
//
// QTIP (arXiv:2406.11235) section 3; the transform as in QuIP# (arXiv:2402.04396) section 3.
#pragma once
#include <array>
#include <cstdint>

#include "../../core/args.h"

namespace ops {

struct TrellisPromptArgs {
  struct Linear {
    const float *sv, *add;
    float* y;
    int64_t rows, block, factor;
  };
  const float *x, *gate, *su, *weight;
  const uint8_t* arranged;
  const uint16_t* entries;
  std::array<Linear, 4> linears;
  float eps;
  int64_t t, rows, columns, block, factor, K, code;
  bool tensor_core, rounded, int8;
  template <class Visitor> void fields(Visitor& v) {
    static constexpr const char* names[4][6] = {{"sv0", "add0", "y0", "rows0", "block0", "factor0"},
                                                {"sv1", "add1", "y1", "rows1", "block1", "factor1"},
                                                {"sv2", "add2", "y2", "rows2", "block2", "factor2"},
                                                {"sv3", "add3", "y3", "rows3", "block3", "factor3"}};
    v("x", x), v("gate", gate, optional), v("su", su), v("weight", weight, optional), v("arranged", arranged), v("entries", entries, optional);
    for (int i = 0; i < 4; ++i) {
      Linear& to = linears[i];
      v(names[i][0], to.sv, optional), v(names[i][1], to.add, optional), v(names[i][2], to.y, optional), v(names[i][3], to.rows);
      v(names[i][4], to.block), v(names[i][5], to.factor);
    }
    v("eps", eps), v("t", t), v("rows", rows), v("columns", columns), v("block", block), v("factor", factor), v("K", K), v("code", code);
    v("tensorCore", tensor_core), v("rounded", rounded), v("int8", int8);
  }
};
void trellis_prompt(const TrellisPromptArgs& args);

}  // namespace ops
