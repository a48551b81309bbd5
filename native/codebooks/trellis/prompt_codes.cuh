// defines: with_code, the choice of a kernel for prompts by code, bits and order of tiles.
#pragma once
#include "decode_kernel.cuh"
#include "product.h"
#include "prompt.h"

namespace ops::prompt {

// f.operator()<Pairs, K, natural>().
template <class Pairs, bool natural, class F>
void with_bits(int64_t K, const F& f) {
  switch (K) {
    case 1: return f.template operator()<Pairs, 1, natural>();
    case 2: return f.template operator()<Pairs, 2, natural>();
    case 3: return f.template operator()<Pairs, 3, natural>();
    default: return f.template operator()<Pairs, 4, natural>();
  }
}

inline bool has_kernel(const TrellisPromptArgs& a) { return !a.tensor_core || static_cast<ProductCode>(a.code) == ProductCode::hyb; }

template <class F>
void with_code(const TrellisPromptArgs& a, const F& f) {
  using namespace product;
  switch (static_cast<ProductCode>(a.code)) {
    case ProductCode::hyb: return a.tensor_core ? with_bits<HybPairs, false>(a.K, f) : with_bits<HybPairs, true>(a.K, f);
    case ProductCode::mad1: return with_bits<Mad1Pairs, true>(a.K, f);
    case ProductCode::inst3: return with_bits<HalvesPairs<89226354u, 64248484u>, true>(a.K, f);
    case ProductCode::mul1: return with_bits<Mul1Pairs, true>(a.K, f);
    case ProductCode::mcg: return with_bits<HalvesPairs<0xcbac1fedu, 0>, true>(a.K, f);
  }
}

}  // namespace ops::prompt
