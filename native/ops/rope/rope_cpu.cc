#include "rope.h"

#include "../../core/error.h"
#include "../../core/parallel.h"

namespace ops {

void rope(const RopeArgs& args) {
  const auto& [x, cos, sin, positions, out, t, heads, half, length] = args;
  for (int64_t i = 0; i < t; ++i) {
    if (positions[i] < 0 || positions[i] >= length) {
      fail("row %lld is at position %d, and there are cosines for %lld", (long long)i, positions[i], (long long)length);
    }
  }
  const int64_t row = heads * 2 * half;
  parallel_for(t, std::max<int64_t>(1, (1 << 15) / row), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* c = cos + positions[i] * half;
      const float* s = sin + positions[i] * half;
      for (int64_t h = 0; h < heads; ++h) {
        const float* from = x + i * row + h * 2 * half;
        float* to = out + i * row + h * 2 * half;
        for (int64_t l = 0; l < half; ++l) {
          const float a = from[l], b = from[l + half];
          to[l] = a * c[l] - b * s[l];
          to[l + half] = b * c[l] + a * s[l];
        }
      }
    }
  });
}

}  // namespace ops
