#include "sparse_logits.h"

#include <algorithm>
#include <cfloat>

#include "../../core/error.h"
#include "../../core/parallel.h"
#include "../../core/softmax.h"

namespace ops {

void sparse_logits(const SparseLogitsArgs& args) {
  const auto& [indices, values, rest, like, out, t, v, k] = args;
  for (int64_t e = 0; e < t * k; ++e) {
    if (indices[e] < 0 || indices[e] >= v) fail("class %d of row %lld is none of %lld", indices[e], (long long)(e / k), (long long)v);
  }
  parallel_for(t, std::max<int64_t>(1, (1 << 12) / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = out + i * v;
      std::copy_n(like + i * v, v, row);
      for (int64_t c = 0; c < k; ++c) row[indices[i * k + c]] = -FLT_MAX;
      const float shift = std::max(rest[i], kLeastLog) - static_cast<float>(log_sum(row, v).value);
      for (int64_t j = 0; j < v; ++j) row[j] += shift;
      for (int64_t c = 0; c < k; ++c) row[indices[i * k + c]] = std::max(values[i * k + c], kLeastLog);
    }
  });
}

}  // namespace ops
