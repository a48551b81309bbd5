#include "top_k.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../../core/exp.h"
#include "../../core/parallel.h"
#include "../../core/softmax.h"

namespace ops {

void top_k(const TopKArgs& args) {
  const auto& [logits, indices, values, rest, t, v, k] = args;
  parallel_for(t, std::max<int64_t>(1, (1 << 12) / v), [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> keys(v);
    std::vector<float> others(v);
    for (int64_t i = begin; i < end; ++i) {
      const float* x = logits + i * v;
      for (int64_t j = 0; j < v; ++j) keys[j] = top_k_key(x[j], j);
      std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<>());
      std::sort(keys.begin(), keys.begin() + k, std::greater<>());
      const LogSum all = log_sum(x, v);
      for (int64_t j = 0; j < k; ++j) {
        indices[i * k + j] = top_k_class(keys[j]);
        values[i * k + j] = static_cast<float>(x[top_k_class(keys[j])] - all.value);
      }
      // What is left is added up by itself: 1 − Σ P of the first would lose it.
      for (int64_t j = k; j < v; ++j) others[j] = x[top_k_class(keys[j])];
      double sum = 0;
      constexpr int64_t kChunk = 512;
      float e[kChunk];
      for (int64_t from = k; from < v; from += kChunk) {
        const int64_t count = std::min(kChunk, v - from);
        exp_all(others.data() + from, 1.0f, -all.max, e, count);
        for (int64_t j = 0; j < count; ++j) sum += e[j];
      }
      rest[i] = static_cast<float>(std::log(sum / all.sum));
    }
  });
}

}  // namespace ops
