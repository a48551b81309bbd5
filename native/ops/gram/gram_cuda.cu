#include "gram.h"

#include "../../core/cublas.h"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

constexpr int64_t kTokens = 512;   // summed in f32
constexpr int64_t kStripe = 1024;  // rows of h at a time: from the diagonal on, so that half of the product is left out
constexpr int kTile = 32, kRows = 8;

// One block a row: a copy, or zeros (which add nothing) where an element is not finite.
__global__ void __launch_bounds__(kThreads) clean_kernel(const float* x, float* clean, double* bad, int64_t n) {
  const float* row = x + blockIdx.x * n;
  float found = 0;
  for (int64_t j = threadIdx.x; j < n; j += kThreads) found = isfinite(row[j]) ? found : 1;
  found = block_max(found);
  for (int64_t j = threadIdx.x; j < n; j += kThreads) clean[blockIdx.x * n + j] = found ? 0 : row[j];
  if (threadIdx.x == 0) bad[blockIdx.x] = found;
}

// h[j, i] = h[i, j] for i < j, a tile a block.
__global__ void mirror_kernel(double* h, int64_t n) {
  __shared__ double tile[kTile][kTile + 1];
  const int64_t i0 = blockIdx.y * kTile, j0 = blockIdx.x * kTile;
  if (j0 < i0) return;
  for (int r = threadIdx.y; r < kTile; r += kRows) {
    if (i0 + r < n && j0 + threadIdx.x < n) tile[r][threadIdx.x] = h[(i0 + r) * n + j0 + threadIdx.x];
  }
  __syncthreads();
  for (int r = threadIdx.y; r < kTile; r += kRows) {
    if (j0 + r < n && i0 + threadIdx.x < j0 + r) h[(j0 + r) * n + i0 + threadIdx.x] = tile[threadIdx.x][r];
  }
}

}  // namespace

void gram(const GramArgs& args) {
  const int64_t t = args.t, n = args.n;
  if (t == 0 || n == 0) return;
  Scratch<float> clean(t * n), product(std::min(kStripe, n) * n);
  Scratch<double> bad(t);
  clean_kernel<<<t, kThreads, 0, stream()>>>(args.x, clean, bad, n);
  launched();
  double* const flags = bad;
  sum(
      t, [flags] __device__(int64_t i) { return flags[i]; }, [args] __device__(double count) { args.skipped[0] += count; });
  for (int64_t i0 = 0; i0 < n; i0 += kStripe) {
    const int64_t height = std::min(kStripe, n - i0), width = n - i0;
    for (int64_t t0 = 0; t0 < t; t0 += kTokens) {
      const float* x = clean + t0 * n + i0;
      cublas_gemm(true, false, height, width, std::min(kTokens, t - t0), 1, x, n, x, n, 0, product, width);
      double* const h = args.h + i0 * n + i0;
      const float* const part = product;
      each(height * width, [=] __device__(int64_t e) {
        const int64_t i = e / width, j = e % width;
        if (j >= i) h[i * n + j] += part[e];
      });
    }
  }
  const unsigned tiles = (n + kTile - 1) / kTile;
  mirror_kernel<<<dim3(tiles, tiles), dim3(kTile, kRows), 0, stream()>>>(args.h, n);
  launched();
}

}  // namespace ops
