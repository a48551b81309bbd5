// A transform of all rows into f16, their product, and the transforms of all outputs. The product is one kernel where decoding again for every
// 128 rows costs less than writing what is decoded; else for each slice of the weights a decoding and a product by cuBLAS.
#include "prompt.h"

#include <string>
#include <type_traits>

#include "../../core/cublas.h"
#include "../../core/shared_memory.cuh"
#include "../../core/error.h"
#include "decode.h"
#include "linear.h"
#include "prompt_kernel.cuh"
#include "prompt_product.h"
#include "prompt_rows.h"
#include "prompt_warpgroup.h"

namespace ops {

using namespace prompt;

namespace {

// Of decoded weights at a time. Slices that stay in the level-2 cache (16 or 32 MB) were slower: each product fills the card anew.
constexpr int64_t kSliceBytes = 128 << 20, kSliceRows = 128;
constexpr int64_t kRowsOfProduct = 16;

const uint4* mixer(int factor, bool transposed) {
  if (factor == 1) return nullptr;
  const auto make = [&] { return operands(factor, transposed); };
  return reinterpret_cast<const uint4*>(constant("rows of hadamard " + std::to_string(factor) + (transposed ? " transposed" : ""), make));
}

bool fits(int64_t n, int64_t block, int64_t factor, size_t most) { return (factor == 1 || block == n) && row_bytes(n) + size_t{256} <= most; }

RowTransform transform_of(int64_t n, int64_t block, int64_t factor, bool transposed) {
  RowTransform t{};
  t.n = static_cast<int>(n), t.factor = static_cast<int>(factor), t.w = static_cast<int>(block / factor);
  t.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(block))), t.mix = mixer(t.factor, transposed);
  return t;
}

// Whether the kernels of rows can.
bool fits(const TrellisPromptArgs& a) {
  const size_t most = most_shared();
  bool all = fits(a.columns, a.block, a.factor, most);
  for (const TrellisPromptArgs::Linear& to : a.linears) all = all && (to.rows == 0 || fits(to.rows, to.block, to.factor, most));
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

// z [vectors, rows] = x·Ŵᵀ through decoded weights.
void multiply(const TrellisPromptArgs& a, const __half* x, int64_t vectors, float* z) {
  // Slices of one size, as few as their bytes allow.
  const int64_t most = std::max(kSliceRows, kSliceBytes / (2 * a.columns)), slices = (a.rows + most - 1) / most;
  const int64_t step = ((a.rows + slices - 1) / slices + kSliceRows - 1) / kSliceRows * kSliceRows;
  Scratch<uint16_t> weights(std::min(step, a.rows) * a.columns);
  for (int64_t first = 0; first < a.rows; first += step) {
    const int64_t count = std::min(step, a.rows - first);
    trellis_decode({a.arranged, a.entries, reinterpret_cast<uint8_t*>(static_cast<uint16_t*>(weights)), a.rows, a.columns, first, count, a.K, a.code,
                    a.tensor_core, true});
    cublas_gemm_f16(false, true, vectors, count, a.columns, 1, reinterpret_cast<const uint16_t*>(x), a.columns, weights, a.columns, 0, z + first, a.rows);
  }
}

void begin(const TrellisPromptArgs& a, bool has_groups, const RowParts& to) {
  const RowShape shape = has_groups ? row_shape(a.columns, a.block, a.factor, a.gate ? 2 : 1) : RowShape{};
  const bool is_grouped = shape.factor > 0;
  RowTransform in = is_grouped ? row_transform(shape, a.factor, false) : transform_of(a.columns, a.block, a.factor, false);
  in.x = a.x, in.stride = a.columns, in.before = a.su, in.weight = a.weight, in.gate = a.gate, in.eps = a.eps;
  if (is_grouped) return begin_rows(in, a.t, to);
  const auto begin = [&](auto kernel) {
    allow_shared(kernel, row_bytes(a.columns));
    kernel<<<static_cast<unsigned>(a.t), kRowThreads, row_bytes(a.columns), stream()>>>(in, to.parts, to.units, !a.rounded, to.panel, to.natural);
    launched();
  };
  const auto choose = [&]<Input kInput>(std::integral_constant<Input, kInput>) {
    const int tiles = tiles_of(a.factor);
    begin(tiles == 0 ? incoherent_rows_kernel<kInput, 0> : tiles == 1 ? incoherent_rows_kernel<kInput, 1> : incoherent_rows_kernel<kInput, kMostTiles>);
  };
  if (a.weight) choose(std::integral_constant<Input, Input::normed>{});
  else if (a.gate) choose(std::integral_constant<Input, Input::gated>{});
  else choose(std::integral_constant<Input, Input::scaled>{});
}

// Outputs whose kernel is one, together.
void finish(const TrellisPromptArgs& a, bool has_groups, const float* z, const float* units, int pieces) {
  struct Output {
    const TrellisPromptArgs::Linear* linear;
    const float* z;
    RowShape shape;  // of warpgroups' kernel, or
    int tiles;
  };
  std::vector<Output> left;
  for (const TrellisPromptArgs::Linear& to : a.linears) {
    if (to.rows == 0) continue;
    left.push_back({&to, z, has_groups ? row_shape(to.rows, to.block, to.factor, pieces) : RowShape{}, tiles_of(to.factor)});
    z += to.rows;
  }
  while (!left.empty()) {
    const Output first = left.front();
    const bool is_grouped = first.shape.factor > 0;
    RowTransforms after{};
    int count = 0, bytes = 0;
    std::erase_if(left, [&](const Output& one) {
      if (one.shape != first.shape || (!is_grouped && one.tiles != first.tiles)) return false;
      const TrellisPromptArgs::Linear& to = *one.linear;
      RowTransform& out = after.of[count++] =
          is_grouped ? row_transform(one.shape, to.factor, true) : transform_of(to.rows, to.block, to.factor, true);
      out.x = one.z, out.stride = a.rows, out.after = to.sv, out.add = to.add, out.y = to.y;
      bytes = std::max(bytes, row_bytes(to.rows));
      return true;
    });
    if (is_grouped) {
      finish_rows(after, count, a.t, units, pieces);
      continue;
    }
    const auto kernel = first.tiles == 0 ? coherent_rows_kernel<0> : first.tiles == 1 ? coherent_rows_kernel<1> : coherent_rows_kernel<kMostTiles>;
    allow_shared(kernel, bytes);
    kernel<<<dim3(static_cast<unsigned>(a.t), count), kRowThreads, bytes, stream()>>>(after, units, pieces);
    launched();
  }
}

}  // namespace

void trellis_prompt(const TrellisPromptArgs& a) {
  if (a.t <= kRowsOfProduct || !fits(a)) return by_products(a);
  const int64_t parts = a.rounded ? 1 : 2, vectors = parts * a.t, rows = a.rows;
  const ProductPlan plan = plan_of_product(a, vectors);
  const int64_t pieces = std::max(plan.pieces, 1);
  const int64_t panel = std::max(plan.panel, 1), columns = plan.panel == 0 ? a.columns : (a.columns + 63) / 64 * 64;
  Scratch<__half> x((vectors + panel - 1) / panel * panel * columns);
  Scratch<float> units(a.t), z(pieces * vectors * rows);
  const bool has_groups = a.rounded && card_has_warpgroups();
  begin(a, has_groups, {x, units, plan.panel, plan.natural});
  if (plan.pieces > 0) prompt_product(a, x, vectors, z, plan);
  else multiply(a, x, vectors, z);
  finish(a, has_groups, z, units, static_cast<int>(pieces * parts));
}

}  // namespace ops
