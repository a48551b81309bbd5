#include "attention_backward.h"

#include "../../core/bf16.h"
#include "../../core/parallel.h"
#include "attention_backward_kernel.h"

namespace ops {

void attention_backward(const AttentionBackwardArgs& args) {
  if (args.t == 0 || args.e == 0) return;
  const int64_t n = args.t * args.heads * args.e, kv_n = args.t * args.kv_heads * args.e;
  const Widened q(args.q, n, args.bf16), k(args.k, kv_n, args.bf16), v(args.v, kv_n, args.bf16), dy(args.dy, n, args.bf16);
  const AttentionBackwardInputs in{q, k, v, dy};
  auto* head = attention_backward_head<16>;
#if defined(__x86_64__)
  if (context().level == Level::avx2) head = attention_backward_head_avx2;
  if (context().level == Level::avx512) head = attention_backward_head_avx512;
#endif
  parallel_for(args.t / args.length * args.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) head(args, in, piece / args.kv_heads, piece % args.kv_heads);
  });
}

}  // namespace ops
