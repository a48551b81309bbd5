// The steps one after the other, by the ops that there are for them; weights decoded a slice at a time.
#include "prompt.h"

#include <algorithm>
#include <vector>

#include "../../core/parallel.h"
#include "../../ops/add/add.h"
#include "../../ops/gemm/gemm.h"
#include "../../ops/hadamard/hadamard.h"
#include "../../ops/rmsnorm/rmsnorm.h"
#include "../../ops/silu-mul/silu_mul.h"
#include "decode.h"
#include "product.h"

namespace ops {

namespace {

// Rows of a product.
constexpr int64_t kRowsOfProduct = 16;
// The most for which decoding in each of some products costs less than decoding once.
int64_t few_rows() { return context().level == Level::avx512 ? 64 : context().level == Level::avx2 ? kRowsOfProduct : 1; }
// Of decoded weights at a time: what caches hold until they are multiplied.
constexpr int64_t kSliceBytes = 4 << 20;

const uint8_t* bytes_of(const float* x) { return reinterpret_cast<const uint8_t*>(x); }
uint8_t* bytes_of(float* x) { return reinterpret_cast<uint8_t*>(x); }

// z [t, rows] = x·Ŵᵀ.
void multiply(const TrellisPromptArgs& a, const float* x, float* z) {
  if (a.int8 || a.t <= few_rows()) {
    for (int64_t b = 0; b < a.t; b += kRowsOfProduct) {
      const int64_t count = std::min(kRowsOfProduct, a.t - b);
      trellis_product({x + b * a.columns, a.arranged, a.entries, z + b * a.rows, count, a.rows, a.columns, a.K, a.code, a.tensor_core, a.int8});
    }
    return;
  }
  const int64_t step = std::min(a.rows, std::max<int64_t>(64, kSliceBytes / (4 * a.columns) / 32 * 32));
  std::vector<float> weights(step * a.columns);
  for (int64_t first = 0; first < a.rows; first += step) {
    const int64_t count = std::min(step, a.rows - first);
    trellis_decode({a.arranged, a.entries, bytes_of(weights.data()), a.rows, a.columns, first, count, a.K, a.code, a.tensor_core, false});
    gemm({bytes_of(x), bytes_of(weights.data()), bytes_of(z), 0, 0, first, a.columns, a.columns, a.rows, a.t, count, a.columns, false, true, false, false,
          1, 0});
  }
}

}  // namespace

void trellis_prompt(const TrellisPromptArgs& a) {
  std::vector<float> made(a.weight || a.gate ? a.t * a.columns : 0), incoherent(a.t * a.columns), z(a.t * a.rows), own;
  if (a.weight) rmsnorm({bytes_of(a.x), a.weight, bytes_of(made.data()), a.t, a.columns, a.eps, false, false});
  if (a.gate) silu_mul({bytes_of(a.gate), bytes_of(a.x), bytes_of(made.data()), a.t * a.columns, false});
  hadamard({a.weight || a.gate ? made.data() : a.x, a.su, incoherent.data(), a.t, a.columns, a.block, a.factor, false, false});
  multiply(a, incoherent.data(), z.data());
  int64_t first = 0;
  for (const TrellisPromptArgs::Linear& to : a.linears) {
    if (to.rows == 0) continue;
    const float* from = z.data();
    if (to.rows < a.rows) {
      own.resize(a.t * to.rows);
      for (int64_t b = 0; b < a.t; ++b) std::copy_n(z.data() + b * a.rows + first, to.rows, own.data() + b * to.rows);
      from = own.data();
    }
    hadamard({from, to.sv, to.y, a.t, to.rows, to.block, to.factor, false, true});
    if (to.add) add({to.y, to.add, to.y, a.t * to.rows, 1, 1});
    first += to.rows;
  }
}

}  // namespace ops
