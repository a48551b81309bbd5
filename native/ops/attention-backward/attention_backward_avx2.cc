#include "attention_backward_kernel.h"

namespace ops {

void attention_backward_head_avx2(const AttentionBackwardArgs& args, const AttentionBackwardInputs& in, int64_t sequence, int64_t kv) {
  attention_backward_head<32>(args, in, sequence, kv);
}

}  // namespace ops
