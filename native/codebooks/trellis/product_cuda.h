// defines: choose, the kernel for a code, rate, order and number of vectors. Compiled once a code: product_{hyb,bytes,halves}_cuda.cu.
#pragma once
#include "product_kernel.cuh"

namespace ops::product {

// Warps of a block: all that a multiprocessor's registers hold at 80 a thread.
constexpr int kWarps = 24;

struct Choice {
  int most;  // vectors of a launch
  cudaError_t (*launch)(Args args, const Card& card, cudaStream_t stream);
};

// For t vectors, in as few launches as a block's shared memory allows.
template <class Code>
Choice choose(int K, bool natural, int t, int most_shared);

}  // namespace ops::product
