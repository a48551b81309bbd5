#include "silu_mul_backward.h"

#include "../../core/exp.h"
#include "../../core/parallel.h"

namespace ops {

void silu_mul_backward(const SiluMulBackwardArgs& args) {
  const auto& [gate, up, dy, d_gate, d_up, n] = args;
  parallel_for(n, 1 << 15, [&](int64_t begin, int64_t end) {
    constexpr int64_t kChunk = 512;
    float e[kChunk];
    for (int64_t from = begin; from < end; from += kChunk) {
      const int64_t count = std::min(kChunk, end - from);
      exp_all(gate + from, -1.0f, 0.0f, e, count);
      for (int64_t i = 0; i < count; ++i) {
        const float g = gate[from + i], u = up[from + i], slope = dy[from + i];
        const float sigmoid = 1.0f / (1.0f + e[i]);
        d_gate[from + i] = slope * u * sigmoid * (1.0f + g * (e[i] * sigmoid));  // 1 − σ = e·σ, without cancellation
        d_up[from + i] = slope * g * sigmoid;
      }
    }
  });
}

}  // namespace ops
