#include "cross_entropy_gradient.h"

#include "../../core/error.h"
#include "../../core/exp.h"
#include "../../core/parallel.h"
#include "../../core/softmax.h"

namespace ops {

void cross_entropy_gradient(const CrossEntropyGradientArgs& args) {
  const auto& [logits, targets, weights, loss, gradient, t, v, k, factor] = args;
  for (int64_t i = 0; i < t * k; ++i) {
    if (targets[i] < -1 || targets[i] >= v) fail("target %lld is %d, and there are %lld logits", (long long)i, targets[i], (long long)v);
  }
  parallel_for(t, std::max<int64_t>(1, (1 << 13) / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = logits + i * v;
      float* out = gradient + i * v;
      const LogSum sum = log_sum(row, v);
      double total = 0, weight = 0;
      for (int64_t l = i * k; l < (i + 1) * k; ++l) {
        if (targets[l] < 0) continue;
        const double share = weights ? weights[l] : 1;
        weight += share;
        total += share * (sum.value - row[targets[l]]);
      }
      loss[i] = static_cast<float>(total);
      exp_all(row, 1.0f, -sum.max, out, v);
      const float scale = static_cast<float>(factor * weight / sum.sum);
      for (int64_t j = 0; j < v; ++j) out[j] *= scale;
      for (int64_t l = i * k; l < (i + 1) * k; ++l) {
        if (targets[l] >= 0) out[targets[l]] -= factor * (weights ? weights[l] : 1);
      }
    }
  });
}

}  // namespace ops
