#include "embed.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

// Word: the largest type that divides a row, so that threads move as much as they can.
template <class Word>
void copy(const EmbedArgs& args) {
  const Word* table = reinterpret_cast<const Word*>(args.table);
  Word* out = reinterpret_cast<Word*>(args.out);
  const int32_t* ids = args.ids;
  const int64_t words = args.bytes / static_cast<int64_t>(sizeof(Word));
  const int64_t v = args.v;
  each(args.t * words, [=] __device__(int64_t e) {
    const int32_t id = ids[e / words];
    if (id < 0 || id >= v) memset(out + e, 0xff, sizeof(Word));
    else out[e] = table[id * words + e % words];
  });
}

}  // namespace

void embed(const EmbedArgs& args) {
  // An id that is no row must be said, not read; in a recorded program its row is NaN.
  const std::vector<int32_t> ids = recording() ? std::vector<int32_t>(args.t) : to_host(args.ids, args.t);
  for (int64_t i = 0; i < args.t; ++i) {
    if (ids[i] < 0 || ids[i] >= args.v) fail("token %lld is %d, and the table has %lld rows", (long long)i, ids[i], (long long)args.v);
  }
  if (args.bytes % 16 == 0) copy<uint4>(args);
  else if (args.bytes % 4 == 0) copy<uint32_t>(args);
  else copy<uint8_t>(args);
}

}  // namespace ops
