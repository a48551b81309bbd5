#include "column_dots.h"

#include "../../core/columns.h"

namespace ops {

void column_dots(const ColumnDotsArgs& args) {
  const auto& [x, y, into, t, n] = args;
  add_column_sums(t, n, into, [&](int64_t begin, int64_t end, float* sums) {
    for (int64_t i = begin; i < end; ++i) {
      const float* a = x + i * n;
      if (y) {
        for (int64_t j = 0; j < n; ++j) sums[j] += a[j] * y[i * n + j];
      } else {
        for (int64_t j = 0; j < n; ++j) sums[j] += a[j];
      }
    }
  });
}

}  // namespace ops
