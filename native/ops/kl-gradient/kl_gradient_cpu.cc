#include "kl_gradient.h"

#include "../../core/exp.h"
#include "../../core/parallel.h"
#include "../../core/softmax.h"

namespace ops {

void kl_gradient(const KlGradientArgs& args) {
  const auto& [teacher, student, divergence, cross_entropy, gradient, t, v, factor] = args;
  parallel_for(t, std::max<int64_t>(1, (1 << 12) / v), [&](int64_t begin, int64_t end) {
    constexpr int64_t kChunk = 512;
    float p[kChunk], q[kChunk];
    for (int64_t i = begin; i < end; ++i) {
      const float *a = teacher + i * v, *b = student + i * v;
      const LogSum sa = log_sum(a, v), sb = log_sum(b, v);
      const float of_a = static_cast<float>(1 / sa.sum), of_b = static_cast<float>(1 / sb.sum);
      double far = 0, cross = 0;
      for (int64_t from = 0; from < v; from += kChunk) {
        const int64_t count = std::min(kChunk, v - from);
        exp_all(a + from, 1.0f, -sa.max, p, count);
        exp_all(b + from, 1.0f, -sb.max, q, count);
        for (int64_t j = 0; j < count; ++j) {
          const double log_q = b[from + j] - sb.value;
          far += p[j] * ((a[from + j] - sa.value) - log_q);
          cross -= p[j] * log_q;
        }
        for (int64_t j = 0; j < count; ++j) gradient[i * v + from + j] = factor * (q[j] * of_b - p[j] * of_a);
      }
      divergence[i] = static_cast<float>(far / sa.sum);
      cross_entropy[i] = static_cast<float>(cross / sa.sum);
    }
  });
}

}  // namespace ops
