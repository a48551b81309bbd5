#include "add_bias.h"

#include "../../core/parallel.h"

namespace ops {

void add_bias(const AddBiasArgs& args) {
  const auto& [x, bias, out, t, n] = args;
  parallel_for(t, std::max<int64_t>(1, (1 << 16) / n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < n; ++j) out[i * n + j] = x[i * n + j] + bias[j];
    }
  });
}

}  // namespace ops
