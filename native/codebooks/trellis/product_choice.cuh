// defines: choose (product_cuda.h), for the file that compiles a code's kernels.
#pragma once
#include "product_cuda.h"

namespace ops::product {

template <class Code, int K, bool natural>
Choice choose_groups(int t, int most_shared) {
  constexpr int one = most_vectors<Code>(1), two = most_vectors<Code>(2);
  if (t > one && shared_bytes<Code>(kWarps, kStrips, 2) <= most_shared) return {two, launch<Code, K, natural, 2, kWarps, 1>};
  return {one, launch<Code, K, natural, 1, kWarps, 2>};
}

template <class Code, int K>
Choice choose_order(bool natural, int t, int most_shared) {
  return natural ? choose_groups<Code, K, true>(t, most_shared) : choose_groups<Code, K, false>(t, most_shared);
}

template <class Code>
Choice choose(int K, bool natural, int t, int most_shared) {
  switch (K) {
    case 1: return choose_order<Code, 1>(natural, t, most_shared);
    case 2: return choose_order<Code, 2>(natural, t, most_shared);
    case 3: return choose_order<Code, 3>(natural, t, most_shared);
    default: return choose_order<Code, 4>(natural, t, most_shared);
  }
}

}  // namespace ops::product
