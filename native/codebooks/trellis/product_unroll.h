// defines: ops::product::unroll, for kernels whose shifts must be constants.
#pragma once
#include <utility>

namespace ops::product {

// f(0), …, f(n − 1) one after the other, the numbers constants.
template <int... i, class F>
[[gnu::always_inline]] inline void unrolled(std::integer_sequence<int, i...>, const F& f) { (f(std::integral_constant<int, i>{}), ...); }
template <int n, class F>
[[gnu::always_inline]] inline void unroll(const F& f) { unrolled(std::make_integer_sequence<int, n>{}, f); }

}  // namespace ops::product
