#include "embed_gradient.h"

#include "../../core/error.h"
#include "../../core/parallel.h"

namespace ops {

void embed_gradient(const EmbedGradientArgs& args) {
  const auto& [dy, ids, into, t, v, d] = args;
  for (int64_t i = 0; i < t; ++i) {
    if (ids[i] < 0 || ids[i] >= v) fail("token %lld is %d, and the table has %lld rows", (long long)i, ids[i], (long long)v);
  }
  // By columns: a row of the table may be met many times.
  parallel_for(d, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < t; ++i) {
      const float* from = dy + i * d;
      float* to = into + ids[i] * d;
      for (int64_t j = begin; j < end; ++j) to[j] += from[j];
    }
  });
}

}  // namespace ops
