#include "gram.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "../../core/bf16.h"
#include "../../core/blas.h"
#include "../../core/parallel.h"

namespace ops {

namespace {

constexpr int64_t kTokens = 512;  // summed in f32
constexpr int64_t kMirror = 16;   // squares in which a tile is mirrored: two cache lines of each row
constexpr int64_t kTile = 256;    // of h: a tile in f64 (512 KB) and its f32 product stay in the L2

bool finite(const float* x, int64_t n) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= (std::bit_cast<uint32_t>(x[i]) & 0x7f800000) == 0x7f800000;
  return !found;
}

// h += xᵀ·x for finite x; below the diagonal with its mirror image, or not at all.
template <class H>
void add(H* h, const float* x, int64_t t, int64_t n, bool whole) {
  const int64_t across = (n + kTile - 1) / kTile;
  parallel_for(across * across, 1, [&](int64_t piece, int64_t) {
    const int64_t i0 = piece / across * kTile, j0 = piece % across * kTile;
    if (j0 < i0) return;  // below the diagonal: written with its mirror image
    const int64_t height = std::min(kTile, n - i0), width = std::min(kTile, n - j0);
    thread_local std::vector<float> product(kTile * kTile);
    thread_local std::vector<double> sum(kTile * kTile);
    std::fill_n(sum.begin(), height * width, 0.0);
    for (int64_t t0 = 0; t0 < t; t0 += kTokens) {
      blas_gemm(true, false, height, width, std::min(kTokens, t - t0), 1.f, x + t0 * n + i0, n, x + t0 * n + j0, n, 0.f, product.data(),
                width);
      for (int64_t e = 0; e < height * width; ++e) sum[e] += product[e];
    }
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = i0 == j0 ? i : 0; j < width; ++j) h[(i0 + i) * n + j0 + j] += static_cast<H>(sum[i * width + j]);
    }
    for (int64_t ib = 0; whole && ib < height; ib += kMirror) {
      for (int64_t jb = i0 == j0 ? ib : 0; jb < width; jb += kMirror) {
        for (int64_t j = j0 + jb; j < j0 + std::min(width, jb + kMirror); ++j) {
          for (int64_t i = i0 + ib; i < std::min(i0 + std::min(height, ib + kMirror), j); ++i) h[j * n + i] = h[i * n + j];
        }
      }
    }
  });
}

}  // namespace

void gram(const GramArgs& args) {
  const int64_t t = args.t, n = args.n;
  const Widened given(args.x, t * n, args.bf16);
  const float* x = given;
  std::vector<uint8_t> bad(t);
  parallel_for(t, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) bad[i] = !finite(x + i * n, n);
  });
  const int64_t skipped = std::count(bad.begin(), bad.end(), 1);
  std::vector<float> zeroed;  // a row of zeros adds nothing
  if (skipped) {
    zeroed.assign(x, x + t * n);
    for (int64_t i = 0; i < t; ++i) {
      if (!bad[i]) continue;
      std::fill_n(zeroed.begin() + i * n, n, 0.f);
      if (args.bf16) std::fill_n(reinterpret_cast<uint16_t*>(args.x) + i * n, n, 0);
    }
    x = zeroed.data();
    args.skipped[0] += static_cast<double>(skipped);
  }
  if (args.bf16) add(reinterpret_cast<float*>(args.h), x, t, n, false);
  else add(reinterpret_cast<double*>(args.h), x, t, n, true);
}

}  // namespace ops
