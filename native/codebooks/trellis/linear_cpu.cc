// The three steps one after the other, by the ops that there are for them.
#include "linear.h"

#include <vector>

#include "../../ops/hadamard/hadamard.h"
#include "product.h"

namespace ops {

void trellis_linear(const TrellisLinearArgs& a) {
  const int64_t rows = a.rows();
  std::vector<float> incoherent(a.t * a.columns), z(a.t * rows);
  hadamard({a.x, a.su, incoherent.data(), a.t, a.columns, a.block, a.factor, false, false});
  trellis_product({incoherent.data(), a.arranged, a.entries, z.data(), a.t, rows, a.columns, a.K, a.code, a.tensor_core, false});
  for (int64_t b = 0; b < a.t; ++b) {
    const float* from = z.data() + b * rows;
    for (const TrellisLinearArgs::Output& o : a.outputs) {
      if (o.rows > 0) hadamard({from, o.sv, o.y + b * o.rows, 1, o.rows, o.block, o.factor, false, true});
      from += o.rows;
    }
  }
}

}  // namespace ops
