#include "embed.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "../../core/overlap.cuh"

namespace ops {

namespace {

__device__ inline void widen(uint4 x, float* to) {
  reinterpret_cast<float4*>(to)[0] = {low_of(x.x), high_of(x.x), low_of(x.y), high_of(x.y)};
  reinterpret_cast<float4*>(to)[1] = {low_of(x.z), high_of(x.z), low_of(x.w), high_of(x.w)};
}
__device__ inline void widen(uint16_t x, float* to) { *to = low_of(x); }

// Word: the largest type that divides a row, so that threads move as much as they can.
template <class Word, bool WIDEN>
__global__ void __launch_bounds__(kThreads) embed_kernel(const EmbedArgs args) {
  wait_for_previous();
  let_next_begin();
  const int64_t words = args.bytes / static_cast<int64_t>(sizeof(Word)), step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; e < args.t * words; e += step) {
    const int32_t id = args.ids[e / words];
    Word word;
    memset(&word, 0xff, sizeof word);
    if (id >= 0 && id < args.v) word = reinterpret_cast<const Word*>(args.table)[id * words + e % words];
    if constexpr (WIDEN) widen(word, reinterpret_cast<float*>(args.out) + e * (sizeof(Word) / 2));
    else reinterpret_cast<Word*>(args.out)[e] = word;
  }
}

template <class Word, bool WIDEN = false>
void copy(const EmbedArgs& args) {
  const unsigned blocks = blocks_for(args.t * args.bytes / static_cast<int64_t>(sizeof(Word)));
  check(launch(embed_kernel<Word, WIDEN>, blocks, kThreads, 0, stream(), card_overlaps(), args));
}

}  // namespace

void embed(const EmbedArgs& args) {
  // An id that is no row must be said, not read; in a recorded program its row is NaN.
  const std::vector<int32_t> ids = recording() ? std::vector<int32_t>(args.t) : to_host(args.ids, args.t);
  for (int64_t i = 0; i < args.t; ++i) {
    if (ids[i] < 0 || ids[i] >= args.v) fail("token %lld is %d, and the table has %lld rows", (long long)i, ids[i], (long long)args.v);
  }
  if (args.t * args.bytes == 0) return;
  if (args.widen) return args.bytes % 16 == 0 ? copy<uint4, true>(args) : copy<uint16_t, true>(args);
  if (args.bytes % 16 == 0) copy<uint4>(args);
  else if (args.bytes % 4 == 0) copy<uint32_t>(args);
  else copy<uint8_t>(args);
}

}  // namespace ops
