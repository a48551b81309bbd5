#include "nearest.h"

#include "../../core/parallel.h"

namespace ops {

void nearest(const NearestArgs& a) {
  parallel_for(a.size, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint16_t code = 0;
      // Past the middle of two neighbours the upper one is nearer.
      for (int64_t k = 0; k + 1 < a.count; ++k) code = uint16_t(code + (double(a.z[i]) * 2 > double(a.levels[k]) + a.levels[k + 1]));
      a.codes[i] = code;
      a.values[i] = a.levels[code];
    }
  });
}

}  // namespace ops
