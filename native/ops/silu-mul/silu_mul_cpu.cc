#include "silu_mul.h"

#include "../../core/bf16.h"
#include "../../core/exp.h"
#include "../../core/parallel.h"

namespace ops {

void silu_mul(const SiluMulArgs& args) {
  const int64_t n = args.n;
  const Widened gates(args.gate, n, args.bf16), ups(args.up, n, args.bf16);
  Narrowing outs(args.out, n, args.bf16);
  const float *gate = gates, *up = ups;
  float* out = outs;
  parallel_for(n, 1 << 15, [&](int64_t begin, int64_t end) {
    constexpr int64_t kChunk = 512;
    float e[kChunk];
    for (int64_t from = begin; from < end; from += kChunk) {
      const int64_t count = std::min(kChunk, end - from);
      exp_all(gate + from, -1.0f, 0.0f, e, count);
      for (int64_t i = 0; i < count; ++i) out[from + i] = gate[from + i] / (1.0f + e[i]) * up[from + i];
    }
  });
}

}  // namespace ops
