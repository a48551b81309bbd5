#include "rope.h"

#include "../../core/bf16.h"
#include "../../core/error.h"
#include "../../core/parallel.h"
#include "turn.h"

namespace ops {

void rope(const RopeArgs& args) {
  const auto [t, heads, half, length] = std::tuple{args.t, args.heads, args.half, args.length};
  const auto position = [&](int64_t i) { return args.positions ? args.positions[i] : i % length; };
  for (int64_t i = 0; args.positions && i < t; ++i) {
    if (position(i) < 0 || position(i) >= length) {
      fail("row %lld is at position %d, and there are cosines for %lld", (long long)i, args.positions[i], (long long)length);
    }
  }
  const int64_t row = heads * 2 * half;
  const Widened x(args.x, t * row, args.bf16);
  Narrowing out(args.out, t * row, args.bf16);
  parallel_for(t, std::max<int64_t>(1, (1 << 15) / row), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      turn(x + i * row, out + i * row, args.cos + position(i) * half, args.sin + position(i) * half, heads, half);
    }
  });
}

}  // namespace ops
