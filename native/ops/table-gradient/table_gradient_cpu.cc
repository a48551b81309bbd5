#include "table_gradient.h"

#include <vector>

#include "../../core/error.h"
#include "../../core/parallel.h"

namespace ops {

void table_gradient(const TableGradientArgs& a) {
  const int64_t across = (a.n + a.Ty - 1) / a.Ty, tiles = (a.m + a.Tx - 1) / a.Tx * across, steps = a.Tx * a.Ty / a.V;
  // A table of sums for each of at most eight pieces: the largest tables have 2¹⁷ entries.
  const int64_t grain = std::max<int64_t>(1, (tiles + 7) / 8), pieces = (tiles + grain - 1) / grain;
  std::vector<double> partial(pieces * a.rows * a.V);
  parallel_for(tiles, grain, [&](int64_t begin, int64_t end) {
    double* sums = partial.data() + begin / grain * a.rows * a.V;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t top = tile / across * a.Tx, left = tile % across * a.Ty;
      for (int64_t e = 0; e < a.Tx * a.Ty; ++e) {
        const int64_t p = a.order ? a.order[e] : e, t = p / a.V, c = p % a.V;
        const int64_t code = a.codes[tile * steps + t];
        if (code >= a.states) fail("code %d of tile %d is %d, beyond the last of %d entries", int(t), int(tile), int(code), int(a.states));
        const int64_t row = a.index[code] & 0xffff;
        if (row >= a.rows) fail("state %d reads row %d of a table of %d", int(code), int(row), int(a.rows));
        const int64_t i = top + e / a.Ty, j = left + e % a.Ty;
        if (i >= a.m || j >= a.n) continue;
        const double slope = a.d_values[i * a.n + j];
        sums[row * a.V + c] += c == 0 && a.index[code] >> 16 ? -slope : slope;
      }
    }
  });
  parallel_for(a.rows * a.V, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      double sum = a.into[e];
      for (int64_t piece = 0; piece < pieces; ++piece) sum += partial[piece * a.rows * a.V + e];
      a.into[e] = static_cast<float>(sum);
    }
  });
}

}  // namespace ops
