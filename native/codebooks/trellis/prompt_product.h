// defines: prompt_product, for the file that compiles its kernels.
#pragma once
#include "prompt.h"

namespace ops::prompt {

// Into how many pieces of the columns the sum is cut, 0: there is no kernel for the code, or decoding and a product of matrices costs less.
int pieces_of_product(const TrellisPromptArgs& args, int64_t vectors);

// z f32 [pieces][vectors][rows], whose sum is x·Ŵᵀ; x f16 [vectors][columns].
void prompt_product(const TrellisPromptArgs& args, const void* x, int64_t vectors, float* z, int pieces);

}  // namespace ops::prompt
