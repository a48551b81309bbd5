// defines: prompt_product, for the files that compile its kernels.
#pragma once
#include <cuda_runtime.h>

#include "prompt.h"

namespace ops::prompt {

// Where x has columns 2i, 2i + 1 of a vector, in pairs, when a panel of vectors lies together, a chunk of 64 columns after the other, and zeros behind
// the last: lane c of four has weights of the c-th 16 columns (product_states.cuh), 16 places that follow each other are those of one matrix
// instruction, and parts of 16 bytes are swizzled as it wants them in shared memory.
__host__ __device__ constexpr int64_t place(int64_t vector, int i, int chunks, int panel, bool natural) {
  const int u = i % 32, at = natural ? u % 8 * 4 + u / 8 : u % 4 * 8 + u % 8 / 4 * 4 + u / 8, row = static_cast<int>(vector % panel);
  return ((vector / panel * chunks + i / 32) * panel + row) * 32 + (at / 4 ^ row % 8) * 4 + at % 4;
}

// How a product is done.
struct ProductPlan {
  int pieces;    // of the columns whose sums are z; 0: there is no kernel for the code, or decoding and a product of matrices costs less
  int panel;     // of vectors that lie together; 0: x has a row for each
  bool natural;  // the order of tiles
};
ProductPlan plan_of_product(const TrellisPromptArgs& args, int64_t vectors);

// z f32 [pieces][vectors][rows], whose sum is x·Ŵᵀ; x f16 [vectors][columns], or by panels.
void prompt_product(const TrellisPromptArgs& args, const void* x, int64_t vectors, float* z, const ProductPlan& plan);

}  // namespace ops::prompt
