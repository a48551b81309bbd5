#include "cross_entropy.h"

#include "../../core/error.h"
#include "../../core/parallel.h"
#include "../../core/softmax.h"

namespace ops {

void cross_entropy(const CrossEntropyArgs& args) {
  const auto& [logits, targets, out, t, v] = args;
  for (int64_t i = 0; i < t; ++i) {
    if (targets[i] < -1 || targets[i] >= v) fail("target %lld is %d, and there are %lld logits", (long long)i, targets[i], (long long)v);
  }
  parallel_for(t, std::max<int64_t>(1, (1 << 13) / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = logits + i * v;
      out[i] = targets[i] < 0 ? 0.0f : static_cast<float>(log_sum(row, v).value - row[targets[i]]);
    }
  });
}

}  // namespace ops
