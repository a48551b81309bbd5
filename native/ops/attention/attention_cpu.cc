#include "attention.h"

#include "../../core/bf16.h"
#include "../../core/parallel.h"
#include "attention_kernel.h"

namespace ops {

void attention(const AttentionArgs& args) {
  auto* block = attention_block<16>;
#if defined(__x86_64__)
  if (context().level == Level::avx2) block = attention_block_avx2;
  if (context().level == Level::avx512) block = attention_block_avx512;
#endif
  const int64_t n = args.t * args.heads * args.e, kv_row = args.kv_heads * args.e, kv_n = (args.before + args.t) * kv_row;
  const int64_t skipped = args.row * kv_row * (args.bf16 ? 2 : 4);
  const Widened q(args.q, n, args.bf16), k(args.k + skipped, kv_n, args.bf16), v(args.v + skipped, kv_n, args.bf16);
  Narrowing out(args.out, n, args.bf16 && !args.wide);
  const AttentionArrays arrays{q, k, v, out};
  const int64_t blocks = (args.length + kQueries - 1) / kQueries;
  parallel_for(args.t / args.length * args.heads * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t of_sequence = piece / blocks;
      block(args, arrays, of_sequence / args.heads, of_sequence % args.heads, piece % blocks * kQueries);
    }
  });
}

}  // namespace ops
