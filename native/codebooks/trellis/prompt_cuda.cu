// A transform of all rows into f16, for each slice of the weights a decoding and a product by cuBLAS, and the transforms of all outputs.
#include "prompt.h"

#include <string>
#include <vector>

#include "../../core/cublas.h"
#include "../../core/error.h"
#include "decode.h"
#include "linear.h"
#include "product_launch.cuh"
#include "prompt_kernel.cuh"

namespace ops {

using namespace product;

namespace {

// Of decoded weights at a time. Slices that stay in the level-2 cache (16 or 32 MB) were slower: each product fills the card anew.
constexpr int64_t kSliceBytes = 128 << 20, kSliceRows = 128;
// Rows of a product, and the most for which some products cost less than decoding.
constexpr int64_t kRowsOfProduct = 16, kFewRows = 32;

const float* mixer(int factor, bool transposed) {
  if (factor == 1) return nullptr;
  const int across = (factor + 7) / 8 * 8;
  return constant("rows of hadamard " + std::to_string(factor) + (transposed ? " transposed" : ""), [&] {
    const std::vector<float> matrix = hadamard_matrix(factor);
    std::vector<float> mix(factor * across);
    for (int k = 0; k < factor; ++k) {
      for (int r = 0; r < factor; ++r) mix[k * across + r] = transposed ? matrix[r * factor + k] : matrix[k * factor + r];
    }
    return mix;
  });
}

bool fits(int64_t n, int64_t block, int64_t factor, const Card& card) { return (factor == 1 || block == n) && row_bytes(n) <= card.most_shared; }

RowTransform transform_of(int64_t n, int64_t block, int64_t factor, bool transposed) {
  RowTransform t{};
  t.n = static_cast<int>(n), t.factor = static_cast<int>(factor), t.w = static_cast<int>(block / factor);
  t.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(block))), t.mix = mixer(t.factor, transposed);
  return t;
}

// Whether the kernels of rows can.
bool fits(const TrellisPromptArgs& a) {
  const Card here = card();
  bool all = fits(a.columns, a.block, a.factor, here);
  for (const TrellisPromptArgs::Linear& to : a.linears) all = all && (to.rows == 0 || fits(to.rows, to.block, to.factor, here));
  return all;
}

// Products of some rows each.
void by_products(const TrellisPromptArgs& a) {
  Scratch<float> z(std::min(kRowsOfProduct, a.t) * a.rows);
  for (int64_t b = 0; b < a.t; b += kRowsOfProduct) {
    TrellisLinearArgs some{};
    some.x = a.x + b * a.columns, some.gate = a.gate ? a.gate + b * a.columns : nullptr, some.su = a.su, some.weight = a.weight, some.eps = a.eps;
    some.arranged = a.arranged, some.entries = a.entries, some.z = z, some.t = std::min(kRowsOfProduct, a.t - b), some.rows = a.rows;
    some.columns = a.columns, some.block = a.block, some.factor = a.factor, some.K = a.K, some.code = a.code, some.tensor_core = a.tensor_core;
    trellis_linear(some);
    TrellisFinishArgs finish{};
    finish.t = some.t;
    const float* from = z;
    for (size_t i = 0; i < a.linears.size(); ++i) {
      const TrellisPromptArgs::Linear& to = a.linears[i];
      if (to.rows == 0) continue;
      finish.outputs[i] = {from, to.sv, nullptr, to.add ? to.add + b * to.rows : nullptr, to.y + b * to.rows, a.rows, to.rows, to.block, to.factor};
      from += to.rows;
    }
    trellis_finish(finish);
  }
}

}  // namespace

void trellis_prompt(const TrellisPromptArgs& a) {
  if (a.t <= kFewRows || !fits(a)) return by_products(a);
  const int64_t parts = a.rounded ? 1 : 2, rows = a.rows;
  Scratch<__half> x(parts * a.t * a.columns);
  Scratch<float> units(a.t), z(parts * a.t * rows);

  RowTransform in = transform_of(a.columns, a.block, a.factor, false);
  in.x = a.x, in.stride = a.columns, in.before = a.su, in.weight = a.weight, in.gate = a.gate, in.eps = a.eps;
  const auto begin = [&](auto kernel) {
    allow_shared(kernel, row_bytes(a.columns));
    kernel<<<static_cast<unsigned>(a.t), kRowThreads, row_bytes(a.columns), stream()>>>(in, x, units, !a.rounded);
    launched();
  };
  if (a.weight) begin(incoherent_rows_kernel<Input::normed>);
  else if (a.gate) begin(incoherent_rows_kernel<Input::gated>);
  else begin(incoherent_rows_kernel<Input::scaled>);

  // Slices of one size, as few as their bytes allow.
  const int64_t most = std::max(kSliceRows, kSliceBytes / (2 * a.columns)), slices = (rows + most - 1) / most;
  const int64_t step = ((rows + slices - 1) / slices + kSliceRows - 1) / kSliceRows * kSliceRows;
  Scratch<uint16_t> weights(std::min(step, rows) * a.columns);
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    trellis_decode({a.arranged, a.entries, reinterpret_cast<uint8_t*>(static_cast<uint16_t*>(weights)), rows, a.columns, first, count, a.K, a.code,
                    a.tensor_core, true});
    cublas_gemm_f16(false, true, parts * a.t, count, a.columns, 1, reinterpret_cast<const uint16_t*>(static_cast<__half*>(x)), a.columns, weights,
                    a.columns, 0, z + first, rows);
  }

  RowTransforms after{};
  unsigned count = 0;
  int bytes = 0;
  const float* from = z;
  for (const TrellisPromptArgs::Linear& to : a.linears) {
    if (to.rows == 0) continue;
    RowTransform& out = after.of[count++] = transform_of(to.rows, to.block, to.factor, true);
    out.x = from, out.stride = rows, out.after = to.sv, out.add = to.add, out.y = to.y;
    from += to.rows, bytes = std::max(bytes, row_bytes(to.rows));
  }
  allow_shared(coherent_rows_kernel, bytes);
  coherent_rows_kernel<<<dim3(static_cast<unsigned>(a.t), count), kRowThreads, bytes, stream()>>>(after, units, !a.rounded);
  launched();
}

}  // namespace ops
