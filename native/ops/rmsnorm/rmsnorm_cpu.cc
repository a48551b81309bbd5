#include "rmsnorm.h"

#include <cmath>

#include "../../core/bf16.h"
#include "../../core/parallel.h"

namespace ops {

void rmsnorm(const RmsnormArgs& args) {
  const int64_t rows = args.rows, n = args.n;
  const Widened x(args.x, rows * n, args.x_bf16);
  Narrowing out(args.out, rows * n, args.out_bf16);
  parallel_for(rows, std::max<int64_t>(1, (1 << 15) / n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* from = x + r * n;
      // Eight partial sums: the compiler may keep them in one vector without changing the order of additions.
      float sum[8] = {};
      int64_t i = 0;
      for (; i + 8 <= n; i += 8) {
        for (int l = 0; l < 8; ++l) sum[l] += from[i + l] * from[i + l];
      }
      for (; i < n; ++i) sum[0] += from[i] * from[i];
      const float total = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
      const float factor = 1.0f / std::sqrt(total / static_cast<float>(n) + args.eps);
      for (int64_t j = 0; j < n; ++j) out[r * n + j] = from[j] * factor * args.weight[j];
    }
  });
}

}  // namespace ops
