#include "scale.h"

#include "../../core/parallel.h"

namespace ops {

void scale(const ScaleArgs& args) {
  const int64_t n = args.n;
  const float factor = static_cast<float>(args.by ? args.factor * *args.by : args.factor);
  parallel_for(args.m, std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float row = args.rows ? args.rows[i] * factor : factor;
      const float* x = args.x + i * n;
      float* out = args.out + i * n;
      if (args.columns) {
        for (int64_t j = 0; j < n; ++j) out[j] = x[j] * row * args.columns[j];
      } else {
        for (int64_t j = 0; j < n; ++j) out[j] = x[j] * row;
      }
    }
  });
}

}  // namespace ops
