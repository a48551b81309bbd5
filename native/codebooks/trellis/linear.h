// Linears that read one x, whole, from packed weights: transforms, product and scales.
//
//   x̃ = (u ⊙ su)·H       z = x̃·Ŵᵀ       y_i = (z_i·H_iᵀ) ⊙ sv_i + add_i        z_i: the rows of linear i, which follow each other in Ŵ
//
//   u       x; or what comes before in a block: x ⊙ weight/√(mean x² + eps), as rmsnorm.h; or silu(gate) ⊙ x, as silu_mul.h. Not both
//   add     f32 [t, rows_i], not y_i, or null: 0
//   x f32 [t, columns]; su f32 [columns] or null; sv_i f32 [rows_i] or null; y_i f32 [t, rows_i]; up to four linears, rows_i = 0: no such one
//   H, H_i  as in hadamard.h: block diagonal, of order `block`, (M ⊗ S)/√block with M of order `factor`
//   Ŵ       as in product.h, whose limits and accuracy are this op's
//
//   cost    what product.h says and the transforms'; on a GPU three kernels, the second of which is on its way while the first runs
//
// QTIP (arXiv:2406.11235) section 3; the transform as in QuIP# (arXiv:2402.04396) section 3.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "../../core/args.h"

namespace ops {

struct TrellisLinearArgs {
  struct Output {
    const float* sv;
    const float* add;
    float* y;
    int64_t rows, block, factor;
  };
  const float* x;
  const float* su;
  const float *weight, *gate;  // f32 [columns], or null; f32 [t, columns], or null
  float eps;
  const uint8_t* arranged;
  const uint16_t* entries;
  std::array<Output, 4> outputs;
  int64_t t, columns, block, factor, K, code;
  bool tensor_core;

  int64_t rows() const {
    int64_t sum = 0;
    for (const Output& output : outputs) sum += output.rows;
    return sum;
  }
  template <class Visitor> void fields(Visitor& v) {
    static constexpr const char* names[4][6] = {{"sv0", "add0", "y0", "rows0", "block0", "factor0"},
                                                {"sv1", "add1", "y1", "rows1", "block1", "factor1"},
                                                {"sv2", "add2", "y2", "rows2", "block2", "factor2"},
                                                {"sv3", "add3", "y3", "rows3", "block3", "factor3"}};
    v("x", x), v("su", su, optional), v("weight", weight, optional), v("gate", gate, optional), v("eps", eps);
    v("arranged", arranged), v("entries", entries, optional);
    for (int i = 0; i < 4; ++i) {
      Output& o = outputs[i];
      v(names[i][0], o.sv, optional), v(names[i][1], o.add, optional), v(names[i][2], o.y, optional), v(names[i][3], o.rows);
      v(names[i][4], o.block), v(names[i][5], o.factor);
    }
    v("t", t), v("columns", columns), v("block", block), v("factor", factor), v("K", K), v("code", code), v("tensorCore", tensor_core);
  }
};
void trellis_linear(const TrellisLinearArgs& args);

}  // namespace ops
