#include "attention.h"

#include "../../core/parallel.h"
#include "attention_kernel.h"

namespace ops {

void attention(const AttentionArgs& args) {
  auto* block = attention_block<16>;
#if defined(__x86_64__)
  if (context().level == Level::avx2) block = attention_block_avx2;
  if (context().level == Level::avx512) block = attention_block_avx512;
#endif
  const int64_t blocks = (args.length + kQueries - 1) / kQueries;
  parallel_for(args.t / args.length * args.heads * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t of_sequence = piece / blocks;
      block(args, of_sequence / args.heads, of_sequence % args.heads, piece % blocks * kQueries);
    }
  });
}

}  // namespace ops
