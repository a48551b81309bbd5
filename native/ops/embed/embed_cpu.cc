#include "embed.h"

#include <cstring>

#include "../../core/error.h"
#include "../../core/parallel.h"

namespace ops {

void embed(const EmbedArgs& args) {
  const auto& [table, ids, out, t, v, bytes] = args;
  for (int64_t i = 0; i < t; ++i) {
    if (ids[i] < 0 || ids[i] >= v) fail("token %lld is %d, and the table has %lld rows", (long long)i, ids[i], (long long)v);
  }
  parallel_for(t, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(out + i * bytes, table + ids[i] * bytes, bytes);
  });
}

}  // namespace ops
