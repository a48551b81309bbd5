#include "attention_kernel.h"

namespace ops {

void attention_block_avx512(const AttentionArgs& args, const AttentionArrays& arrays, int64_t sequence, int64_t head, int64_t first) {
  attention_block<64>(args, arrays, sequence, head, first);
}

}  // namespace ops
