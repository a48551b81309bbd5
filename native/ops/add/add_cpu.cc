#include "add.h"

#include "../../core/parallel.h"

namespace ops {

void add(const AddArgs& args) {
  const auto& [x, y, out, n, alpha, beta] = args;
  parallel_for(n, 1 << 18, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = alpha * x[i] + beta * y[i];
  });
}

}  // namespace ops
