// defines: prompt_product's parts on cards that have instructions of warpgroups, for the file that compiles their kernels.
#pragma once
#include "prompt_product.h"

namespace ops::prompt {

struct ProductArgs;

// Compute capability 9.0: the instructions are in no card after it.
bool card_has_warpgroups();
ProductPlan plan_of_warpgroups(const TrellisPromptArgs& args, int64_t vectors);
void warpgroup_product(const TrellisPromptArgs& args, const ProductArgs& product, const ProductPlan& plan);

}  // namespace ops::prompt
