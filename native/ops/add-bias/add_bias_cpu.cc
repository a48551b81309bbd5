#include "add_bias.h"

#include "../../core/bf16.h"
#include "../../core/parallel.h"

namespace ops {

void add_bias(const AddBiasArgs& args) {
  const int64_t t = args.t, n = args.n;
  const Widened values(args.x, t * n, args.bf16);
  Narrowing sums(args.out, t * n, args.bf16);
  const float* x = values;
  float* out = sums;
  parallel_for(t, std::max<int64_t>(1, (1 << 16) / n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < n; ++j) out[i * n + j] = x[i * n + j] + args.bias[j];
    }
  });
}

}  // namespace ops
