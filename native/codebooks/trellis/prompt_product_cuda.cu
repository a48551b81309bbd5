#include "prompt_product.h"

#include <algorithm>

#include "../../core/shared_memory.cuh"
#include "product.h"
#include "prompt_product_kernel.cuh"

namespace ops::prompt {

namespace {

using product::HalvesPairs;
using product::HybPairs;
using product::Mul1Pairs;
using product::Mad1Pairs;

// Panels of 128 vectors for each of which weights are decoded again. On an H100 256 rows of Llama-2-7B take 24.6 ms so and 24.8 through decoded
// weights, 512 take 41.0 and 33.1.
constexpr int64_t kMostPanels = 2;

int64_t panels_of(int64_t vectors) { return (vectors + panel(16) - 1) / panel(16); }

template <class Pairs, int K, bool natural, int tiles>
void run(const ProductArgs& args, int pieces) {
  const auto kernel = prompt_product_kernel<Pairs, K, natural, tiles>;
  allow_shared(kernel, product_bytes<Pairs, tiles>());
  const dim3 grid((args.m + 32 * kStrips - 1) / (32 * kStrips), pieces, (args.vectors + panel(tiles) - 1) / panel(tiles));
  kernel<<<grid, 32 * kStrips, product_bytes<Pairs, tiles>(), stream()>>>(args);
  launched();
}

template <class Pairs, int K, bool natural>
void run(const ProductArgs& args, int pieces) {
  args.vectors <= panel(8) ? run<Pairs, K, natural, 8>(args, pieces) : run<Pairs, K, natural, 16>(args, pieces);
}

template <class Pairs, bool natural>
void run(const ProductArgs& args, int64_t K, int pieces) {
  switch (K) {
    case 1: return run<Pairs, 1, natural>(args, pieces);
    case 2: return run<Pairs, 2, natural>(args, pieces);
    case 3: return run<Pairs, 3, natural>(args, pieces);
    default: return run<Pairs, 4, natural>(args, pieces);
  }
}

}  // namespace

int pieces_of_product(const TrellisPromptArgs& a, int64_t vectors) {
  if (a.tensor_core && static_cast<ProductCode>(a.code) != ProductCode::hyb) return 0;
  if (panels_of(vectors) > kMostPanels || product_bytes<HybPairs, 16>() > most_shared()) return 0;
  // µs on an H100: waves of blocks, 1.95 a chunk, two chunks' to begin and end; and a piece is written and read.
  const int64_t chunks = (a.columns + 63) / 64, blocks = (a.rows + 32 * kStrips - 1) / (32 * kStrips) * panels_of(vectors);
  int best = 1;
  double least = 1e30;
  for (int pieces = 1; pieces <= std::min<int64_t>(chunks, 16); ++pieces) {
    const double waves = static_cast<double>((blocks * pieces + multiprocessors() - 1) / multiprocessors());
    const double cost = waves * (static_cast<double>((chunks + pieces - 1) / pieces) + 2) * 1.95 + pieces * vectors * a.rows * 8 / 3e6;
    if (cost < least) least = cost, best = pieces;
  }
  return best;
}

void prompt_product(const TrellisPromptArgs& a, const void* x, int64_t vectors, float* z, int pieces) {
  const ProductArgs args{reinterpret_cast<const uint32_t*>(a.arranged), reinterpret_cast<const uint32_t*>(a.entries), static_cast<const __half*>(x), z,
                         static_cast<int>(a.rows), static_cast<int>(a.columns), static_cast<int>(vectors)};
  switch (static_cast<ProductCode>(a.code)) {
    case ProductCode::hyb: return a.tensor_core ? run<HybPairs, false>(args, a.K, pieces) : run<HybPairs, true>(args, a.K, pieces);
    case ProductCode::mad1: return run<Mad1Pairs, true>(args, a.K, pieces);
    case ProductCode::inst3: return run<HalvesPairs<89226354u, 64248484u>, true>(args, a.K, pieces);
    case ProductCode::mul1: return run<Mul1Pairs, true>(args, a.K, pieces);
    case ProductCode::mcg: return run<HalvesPairs<0xcbac1fedu, 0>, true>(args, a.K, pieces);
  }
}

}  // namespace ops::prompt
