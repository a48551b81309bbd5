#include "prompt_product.h"

#include <algorithm>

#include "../../core/shared_memory.cuh"
#include "prompt_codes.cuh"
#include "prompt_product_kernel.cuh"
#include "prompt_warpgroup.h"

namespace ops::prompt {

namespace {

using product::HybPairs;

// Panels of 128 vectors for each of which weights are decoded again; for more of them writing what is decoded costs less.
constexpr int64_t kMostPanels = 2;
// Microseconds of a chunk.
constexpr double kChunk = 1.95;

template <class Pairs, int K, bool natural, int tiles>
void run(const ProductArgs& args, int pieces) {
  const auto kernel = prompt_product_kernel<Pairs, K, natural, tiles>;
  allow_shared(kernel, product_bytes<Pairs, tiles>());
  const dim3 grid((args.m + 32 * kStrips - 1) / (32 * kStrips), pieces, (args.vectors + panel(tiles) - 1) / panel(tiles));
  kernel<<<grid, 32 * kStrips, product_bytes<Pairs, tiles>(), stream()>>>(args);
  launched();
}

}  // namespace

ProductPlan plan_of_product(const TrellisPromptArgs& a, int64_t vectors) {
  if (!has_kernel(a)) return {};
  if (card_has_warpgroups()) return plan_of_warpgroups(a, vectors);
  if (vectors > kMostPanels * panel(16) || product_bytes<HybPairs, 16>() > most_shared()) return {};
  return {pieces_of(a.rows, a.columns, vectors, panel(16), kChunk, multiprocessors()), 0, !a.tensor_core};
}

void prompt_product(const TrellisPromptArgs& a, const void* x, int64_t vectors, float* z, const ProductPlan& plan) {
  const ProductArgs args{reinterpret_cast<const uint32_t*>(a.arranged), reinterpret_cast<const uint32_t*>(a.entries), static_cast<const __half*>(x), z,
                         static_cast<int>(a.rows), static_cast<int>(a.columns), static_cast<int>(vectors)};
  if (plan.panel > 0) return warpgroup_product(a, args, plan);
  with_code(a, [&]<class Pairs, int K, bool natural>() {
    args.vectors <= panel(8) ? run<Pairs, K, natural, 8>(args, plan.pieces) : run<Pairs, K, natural, 16>(args, plan.pieces);
  });
}

}  // namespace ops::prompt
