#include "mirror.h"

#include <algorithm>

#include "../../core/parallel.h"

namespace ops {

void mirror(const MirrorArgs& args) {
  constexpr int64_t kTile = 64;  // two tiles of f32 stay in the L1
  const auto [h, n, factor] = std::tuple{args.h, args.n, args.factor};
  const int64_t across = (n + kTile - 1) / kTile;
  parallel_for(across * across, 1, [&](int64_t piece, int64_t) {
    const int64_t i0 = piece / across * kTile, j0 = piece % across * kTile;
    if (j0 < i0) return;  // written with its mirror image
    for (int64_t i = i0; i < std::min(n, i0 + kTile); ++i) {
      for (int64_t j = std::max(i, j0); j < std::min(n, j0 + kTile); ++j) {
        h[i * n + j] *= factor;
        h[j * n + i] = h[i * n + j];
      }
    }
  });
}

}  // namespace ops
