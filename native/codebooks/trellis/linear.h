// Linears that read one x, whole, from packed weights: transforms, product and scales. What one product gives is mostly read by the next, so
// it need not be finished in between.
//
//   trellis_linear   x̃ = (u ⊙ su)·H       z = x̃·Ŵᵀ, of all rows of all linears
//   trellis_finish   y_i = (z_i·H_iᵀ) ⊙ sv_i + bias_i + add_i, of up to four; and where it has a norm, that of each of its heads, as rmsnorm.h
//
//   u       x; or what comes before in a block: x ⊙ weight/√(mean x² + eps), as rmsnorm.h; or silu(gate) ⊙ x, as silu_mul.h. Not both
//   x, gate f32 [t, columns] each; or null, and an Output of another product in its place, with rows = columns, which is finished on the way
//   su f32 [columns]; z f32 [t, rows]
//   H, H_i  as in hadamard.h: block diagonal, of order `block`, (M ⊗ S)/√block with M of order `factor`
//   Ŵ       as in product.h, whose limits, accuracy and int8 are this op's
//
//   cost    what product.h says and the transforms'; on a GPU the product is on its way while the transform before it runs
//
// QTIP (arXiv:2406.11235) section 3; the transform as in QuIP# (arXiv:2402.04396) section 3.
#pragma once
#include <array>
#include <cstdint>

#include "../../core/args.h"

namespace ops {

// One linear's rows of a product.
struct Output {
  const float* z;           // f32 [t, stride] from this output's first column on; null: no such output
  const float *sv, *bias;   // f32 [rows] each; bias or null: 0
  const float* add;         // f32 [t, rows] or null: 0
  float* y;                 // f32 [t, rows], neither z nor add; null for what only the op itself reads
  int64_t stride, rows, block, factor;
  const float* norm;        // f32 [head] or null; of trellis_finish alone
  int64_t head;             // a divisor of rows, or 0
  float eps;
  template <class Visitor>
  void fields(Visitor& v, const std::array<const char*, 13>& names) {
    int64_t first = 0;
    v(names[0], z, optional), v(names[1], sv, optional), v(names[2], bias, optional), v(names[3], add, optional), v(names[4], y, optional);
    v(names[5], first), v(names[6], stride), v(names[7], rows), v(names[8], block), v(names[9], factor);
    v(names[10], norm, optional), v(names[11], head), v(names[12], eps);
    if (z) z += first;
  }
};

struct TrellisLinearArgs {
  const float *x, *gate;
  Output unfinished_x, unfinished_gate;  // y of x: where it is kept for others, or null. Of the gate: null
  const float *su, *weight;              // weight f32 [columns] or null
  const uint8_t* arranged;
  const uint16_t* entries;
  float* z;
  float eps;
  int64_t t, rows, columns, block, factor, K, code;
  bool tensor_core, int8;  // int8: on the CPU alone
  template <class Visitor>
  void fields(Visitor& v) {
    v("x", x, optional), v("gate", gate, optional);
    unfinished_x.fields(v, {"zX", "svX", "biasX", "addX", "yX", "firstX", "strideX", "rowsX", "blockX", "factorX", "normX", "headX", "epsX"});
    unfinished_gate.fields(v, {"zGate", "svGate", "biasGate", "addGate", "yGate", "firstGate", "strideGate", "rowsGate", "blockGate", "factorGate",
                               "normGate", "headGate", "epsGate"});
    v("su", su), v("weight", weight, optional), v("arranged", arranged), v("entries", entries, optional), v("z", z), v("eps", eps);
    v("t", t), v("rows", rows), v("columns", columns), v("block", block), v("factor", factor), v("K", K), v("code", code), v("tensorCore", tensor_core);
    v("int8", int8);
  }
};
void trellis_linear(const TrellisLinearArgs& args);

struct TrellisFinishArgs {
  std::array<Output, 4> outputs;  // each with y
  int64_t t;
  template <class Visitor>
  void fields(Visitor& v) {
    outputs[0].fields(v, {"z0", "sv0", "bias0", "add0", "y0", "first0", "stride0", "rows0", "block0", "factor0", "norm0", "head0", "eps0"});
    outputs[1].fields(v, {"z1", "sv1", "bias1", "add1", "y1", "first1", "stride1", "rows1", "block1", "factor1", "norm1", "head1", "eps1"});
    outputs[2].fields(v, {"z2", "sv2", "bias2", "add2", "y2", "first2", "stride2", "rows2", "block2", "factor2", "norm2", "head2", "eps2"});
    outputs[3].fields(v, {"z3", "sv3", "bias3", "add3", "y3", "first3", "stride3", "rows3", "block3", "factor3", "norm3", "head3", "eps3"});
    v("t", t);
  }
};
void trellis_finish(const TrellisFinishArgs& args);

}  // namespace ops
