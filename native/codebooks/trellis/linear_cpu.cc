// The three steps one after the other, by the ops that there are for them.
#include "linear.h"

#include <vector>

#include "../../ops/add/add.h"
#include "../../ops/hadamard/hadamard.h"
#include "../../ops/rmsnorm/rmsnorm.h"
#include "../../ops/silu-mul/silu_mul.h"
#include "product.h"

namespace ops {

void trellis_linear(const TrellisLinearArgs& a) {
  const int64_t rows = a.rows();
  std::vector<float> incoherent(a.t * a.columns), z(a.t * rows), made(a.weight || a.gate ? a.t * a.columns : 0);
  const auto *x = reinterpret_cast<const uint8_t*>(a.x), *gate = reinterpret_cast<const uint8_t*>(a.gate);
  auto* const into = reinterpret_cast<uint8_t*>(made.data());
  if (a.weight) rmsnorm({x, a.weight, into, a.t, a.columns, a.eps, false, false});
  if (a.gate) silu_mul({gate, x, into, a.t * a.columns, false});
  hadamard({a.weight || a.gate ? made.data() : a.x, a.su, incoherent.data(), a.t, a.columns, a.block, a.factor, false, false});
  trellis_product({incoherent.data(), a.arranged, a.entries, z.data(), a.t, rows, a.columns, a.K, a.code, a.tensor_core, false});
  for (int64_t b = 0; b < a.t; ++b) {
    const float* from = z.data() + b * rows;
    for (const TrellisLinearArgs::Output& o : a.outputs) {
      if (o.rows > 0) hadamard({from, o.sv, o.y + b * o.rows, 1, o.rows, o.block, o.factor, false, true});
      from += o.rows;
    }
  }
  for (const TrellisLinearArgs::Output& o : a.outputs) {
    if (o.rows > 0 && o.add) add({o.y, o.add, o.y, a.t * o.rows, 1, 1});
  }
}

}  // namespace ops
