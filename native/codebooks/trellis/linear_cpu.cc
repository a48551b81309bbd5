// The steps one after the other, by the ops that there are for them.
#include "linear.h"

#include <vector>

#include "../../ops/add-bias/add_bias.h"
#include "../../ops/add/add.h"
#include "../../ops/hadamard/hadamard.h"
#include "../../ops/rmsnorm/rmsnorm.h"
#include "../../ops/silu-mul/silu_mul.h"
#include "product.h"

namespace ops {

namespace {

void finish(const Output& o, int64_t t) {
  for (int64_t b = 0; b < t; ++b) hadamard({o.z + b * o.stride, o.sv, o.y + b * o.rows, 1, o.rows, o.block, o.factor, false, true});
  auto* const y = reinterpret_cast<uint8_t*>(o.y);
  if (o.bias) add_bias({y, o.bias, y, t, o.rows, false});
  if (o.add) add({o.y, o.add, o.y, t * o.rows, 1, 1});
  if (o.norm) rmsnorm({y, o.norm, y, t * o.rows / o.head, o.head, o.eps, false, false});
}

// x, or what it becomes: kept where that is asked for, else in `own`.
const float* finished(const float* x, Output unfinished, int64_t t, std::vector<float>& own) {
  if (!unfinished.z) return x;
  if (!unfinished.y) own.resize(t * unfinished.rows), unfinished.y = own.data();
  finish(unfinished, t);
  return unfinished.y;
}

}  // namespace

void trellis_linear(const TrellisLinearArgs& a) {
  std::vector<float> own_x, own_gate, incoherent(a.t * a.columns);
  const float *x = finished(a.x, a.unfinished_x, a.t, own_x), *gate = finished(a.gate, a.unfinished_gate, a.t, own_gate);
  std::vector<float> made(a.weight || gate ? a.t * a.columns : 0);
  const auto* from = reinterpret_cast<const uint8_t*>(x);
  auto* const into = reinterpret_cast<uint8_t*>(made.data());
  if (a.weight) rmsnorm({from, a.weight, into, a.t, a.columns, a.eps, false, false});
  if (gate) silu_mul({reinterpret_cast<const uint8_t*>(gate), from, into, a.t * a.columns, false});
  hadamard({a.weight || gate ? made.data() : x, a.su, incoherent.data(), a.t, a.columns, a.block, a.factor, false, false});
  trellis_product({incoherent.data(), a.arranged, a.entries, a.z, a.t, a.rows, a.columns, a.K, a.code, a.tensor_core, a.int8});
}

void trellis_finish(const TrellisFinishArgs& args) {
  for (const Output& o : args.outputs) {
    if (o.z) finish(o, args.t);
  }
}

}  // namespace ops
