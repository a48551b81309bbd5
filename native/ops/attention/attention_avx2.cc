#include "attention_kernel.h"

namespace ops {

void attention_block_avx2(const AttentionArgs& args, int64_t sequence, int64_t head, int64_t first) {
  attention_block<32>(args, sequence, head, first);
}

}  // namespace ops
