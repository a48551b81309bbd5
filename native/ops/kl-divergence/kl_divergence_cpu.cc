#include "kl_divergence.h"

#include "../../core/exp.h"
#include "../../core/parallel.h"
#include "../../core/softmax.h"

namespace ops {

void kl_divergence(const KlDivergenceArgs& args) {
  const auto& [p, q, out, t, v] = args;
  parallel_for(t, std::max<int64_t>(1, (1 << 12) / v), [&](int64_t begin, int64_t end) {
    constexpr int64_t kChunk = 512;
    float e[kChunk];
    for (int64_t i = begin; i < end; ++i) {
      const float *a = p + i * v, *b = q + i * v;
      const LogSum sa = log_sum(a, v), sb = log_sum(b, v);
      double sum = 0;
      for (int64_t from = 0; from < v; from += kChunk) {
        const int64_t count = std::min(kChunk, v - from);
        exp_all(a + from, 1.0f, -sa.max, e, count);
        for (int64_t j = 0; j < count; ++j) sum += e[j] * ((a[from + j] - sa.value) - (b[from + j] - sb.value));
      }
      out[i] = static_cast<float>(sum / sa.sum);
    }
  });
}

}  // namespace ops
