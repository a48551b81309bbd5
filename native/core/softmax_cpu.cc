#include "softmax.h"

#include <algorithm>
#include <cmath>

#include "exp.h"

namespace ops {

LogSum log_sum(const float* x, int64_t n) {
  constexpr int kParts = 8;  // partial results: without them each number waits for the one before
  float max = x[0], largest[kParts];
  std::fill_n(largest, kParts, max);
  for (int64_t i = 0; i + kParts <= n; i += kParts) {
    for (int l = 0; l < kParts; ++l) largest[l] = x[i + l] > largest[l] ? x[i + l] : largest[l];
  }
  for (const float part : largest) max = std::max(max, part);
  for (int64_t i = n / kParts * kParts; i < n; ++i) max = std::max(max, x[i]);

  constexpr int64_t kChunk = 512;
  float e[kChunk];
  double sums[kParts] = {};
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = std::min(kChunk, n - from);
    exp_all(x + from, 1.0f, -max, e, count);
    std::fill(e + count, e + (count + kParts - 1) / kParts * kParts, 0.0f);
    for (int64_t i = 0; i < count; i += kParts) {
      for (int l = 0; l < kParts; ++l) sums[l] += e[i + l];
    }
  }
  double sum = 0;
  for (const double part : sums) sum += part;
  return {max, sum, max + std::log(sum)};
}

}  // namespace ops
