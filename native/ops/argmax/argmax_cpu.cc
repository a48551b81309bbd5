#include "argmax.h"

#include <limits>

#include "../../core/parallel.h"

namespace ops {

void argmax(const ArgmaxArgs& args) {
  const auto& [x, out, t, v] = args;
  parallel_for(t, std::max<int64_t>(1, (1 << 15) / v), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = x + i * v;
      float most = -std::numeric_limits<float>::infinity();
      int64_t best = -1;
      for (int64_t j = 0; j < v; ++j) {
        if (row[j] > most || (best < 0 && row[j] == most)) most = row[j], best = j;
      }
      out[i] = static_cast<int32_t>(std::max<int64_t>(0, best));
    }
  });
}

}  // namespace ops
