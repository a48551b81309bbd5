#include "rmsnorm_backward.h"

#include <cmath>

#include "../../core/columns.h"

namespace ops {

namespace {

// Σ term(i) by eight partial sums: the compiler may keep them in one vector without changing the order of additions.
template <class F>
float sum_of(int64_t n, const F& term) {
  float sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int l = 0; l < 8; ++l) sum[l] += term(i + l);
  }
  for (; i < n; ++i) sum[0] += term(i);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

}  // namespace

void rmsnorm_backward(const RmsnormBackwardArgs& args) {
  const auto& [x, weight, dy, dx, gradient, rows, n, eps] = args;
  add_column_sums(rows, n, gradient, [&](int64_t begin, int64_t end, float* sums) {
    for (int64_t t = begin; t < end; ++t) {
      const float *in = x + t * n, *slope = dy + t * n;
      float* out = dx + t * n;
      const float mean = sum_of(n, [&](int64_t i) { return in[i] * in[i]; }) / static_cast<float>(n);
      const float r = 1.0f / std::sqrt(mean + eps);
      const float dot = sum_of(n, [&](int64_t i) { return weight[i] * slope[i] * in[i]; });
      const float along = r * r * r / static_cast<float>(n) * dot;
      for (int64_t j = 0; j < n; ++j) {
        out[j] = r * weight[j] * slope[j] - in[j] * along;
        sums[j] += slope[j] * in[j] * r;
      }
    }
  });
}

}  // namespace ops
