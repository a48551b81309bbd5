// defines: finish_by_ops, linear_by_ops: what linear.h computes by one op for each part, on any backend.
#pragma once
#include "../../ops/add-bias/add_bias.h"
#include "../../ops/add/add.h"
#include "../../ops/hadamard/hadamard.h"
#include "../../ops/rmsnorm/rmsnorm.h"
#include "../../ops/silu-mul/silu_mul.h"
#include "linear.h"
#include "product.h"

namespace ops {

inline void norm_heads(const Output& o, int64_t t) {
  auto* const y = reinterpret_cast<uint8_t*>(o.y);
  if (o.norm) rmsnorm({y, o.norm, y, t * o.rows / o.head, o.head, o.eps, false, false});
}

// One that has a y.
inline void finish_by_ops(const Output& o, int64_t t) {
  for (int64_t b = 0; b < t; ++b) hadamard({o.z + b * o.stride, o.sv, o.y + b * o.rows, 1, o.rows, o.block, o.factor, false, true});
  auto* const y = reinterpret_cast<uint8_t*>(o.y);
  if (o.bias) add_bias({y, o.bias, y, t, o.rows, false});
  if (o.add) add({o.y, o.add, o.y, t * o.rows, 1, 1});
  norm_heads(o, t);
}

// Of x and gate as they are. incoherent and, where x is normed or gated, made: f32 [t, columns], to work in.
inline void linear_by_ops(const TrellisLinearArgs& a, const float* x, const float* gate, float* made, float* incoherent) {
  const auto* const from = reinterpret_cast<const uint8_t*>(x);
  auto* const into = reinterpret_cast<uint8_t*>(made);
  if (a.weight) rmsnorm({from, a.weight, into, a.t, a.columns, a.eps, false, false});
  if (gate) silu_mul({reinterpret_cast<const uint8_t*>(gate), from, into, a.t * a.columns, false});
  hadamard({a.weight || gate ? made : x, a.su, incoherent, a.t, a.columns, a.block, a.factor, false, false});
  trellis_product({incoherent, a.arranged, a.entries, a.z, a.t, a.rows, a.columns, a.K, a.code, a.tensor_core, a.int8});
}

}  // namespace ops
