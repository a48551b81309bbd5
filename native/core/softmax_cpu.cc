#include "softmax.h"

#include <algorithm>
#include <cmath>

#include "exp.h"

namespace ops {

LogSum log_sum(const float* x, int64_t n) {
  float max = x[0];
  for (int64_t i = 1; i < n; ++i) max = std::max(max, x[i]);
  constexpr int64_t kChunk = 512;
  float e[kChunk];
  double sum = 0;
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = std::min(kChunk, n - from);
    exp_all(x + from, 1.0f, -max, e, count);
    for (int64_t i = 0; i < count; ++i) sum += e[i];
  }
  return {max, sum, max + std::log(sum)};
}

}  // namespace ops
