#include "keep_rows.h"

#include <algorithm>

#include "../../core/bf16.h"
#include "../../core/parallel.h"
#include "../rope/turn.h"

namespace ops {

void keep_rows(const KeepRowsArgs& args) {
  const int64_t half = args.half, e = 2 * half, row = args.heads * e, kv_row = args.kv_heads * e;
  const int64_t first = (args.row + args.before) * kv_row * (args.kept_bf16 ? 2 : 4);
  const Widened q(args.q, args.t * row, args.given_bf16), k(args.k, args.t * kv_row, args.given_bf16), v(args.v, args.t * kv_row, args.given_bf16);
  Narrowing turned_q(args.turned_q, args.t * row, args.seen_bf16), seen_k(args.seen_k, args.t * kv_row, args.seen_bf16);
  Narrowing seen_v(args.seen_v, args.t * kv_row, args.seen_bf16);
  Narrowing keys(args.keys + first, args.t * kv_row, args.kept_bf16), values(args.values + first, args.t * kv_row, args.kept_bf16);
  parallel_for(args.t, std::max<int64_t>(1, (1 << 15) / (row + 2 * kv_row)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *c = args.cos + (args.before + i) * half, *s = args.sin + (args.before + i) * half;
      turn(q + i * row, turned_q + i * row, c, s, args.heads, half);
      turn(k + i * kv_row, seen_k + i * kv_row, c, s, args.kv_heads, half);
      std::copy_n(seen_k + i * kv_row, kv_row, keys + i * kv_row);
      std::copy_n(v + i * kv_row, kv_row, seen_v + i * kv_row);
      std::copy_n(v + i * kv_row, kv_row, values + i * kv_row);
    }
  });
}

}  // namespace ops
