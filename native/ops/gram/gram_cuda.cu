#include "gram.h"

#include <cmath>

#include "../../core/bf16.cuh"
#include "../../core/cublas.h"
#include "../../core/cuda.cuh"
#include "../mirror/mirror.cuh"

namespace ops {

namespace {

constexpr int64_t kTokens = 512;   // summed in f32
constexpr int64_t kStripe = 1024;  // rows of h at a time: from the diagonal on, so that half of the product is left out

// One block a row: a copy, or zeros (which add nothing) where an element is not finite.
__global__ void __launch_bounds__(kThreads) clean_kernel(const float* x, float* clean, double* bad, int64_t n) {
  const float* row = x + blockIdx.x * n;
  float found = 0;
  for (int64_t j = threadIdx.x; j < n; j += kThreads) found = isfinite(row[j]) ? found : 1;
  found = block_max(found);
  for (int64_t j = threadIdx.x; j < n; j += kThreads) clean[blockIdx.x * n + j] = found ? 0 : row[j];
  if (threadIdx.x == 0) bad[blockIdx.x] = found;
}

// One block a row: what is not finite, set to zeros.
__global__ void __launch_bounds__(kThreads) clear_kernel(uint16_t* x, double* bad, int64_t n) {
  constexpr uint32_t kExponent = 0x7f80;
  uint16_t* row = x + blockIdx.x * n;
  int found = 0;
  if (n % kVector == 0) {
    for (int64_t j = threadIdx.x * kVector; j < n; j += kThreads * kVector) {
      const uint4 eight = *reinterpret_cast<const uint4*>(row + j);
      for (const uint32_t pair : {eight.x, eight.y, eight.z, eight.w}) {
        found |= (pair & kExponent) == kExponent || (pair >> 16 & kExponent) == kExponent;
      }
    }
  } else {
    for (int64_t j = threadIdx.x; j < n; j += kThreads) found |= (row[j] & kExponent) == kExponent;
  }
  found = __syncthreads_or(found);
  for (int64_t j = threadIdx.x; found && j < n; j += kThreads) row[j] = 0;
  if (threadIdx.x == 0) bad[blockIdx.x] = found ? 1 : 0;
}

// Where stripes of h begin, in rows: the products of a stripe with all that is right of the diagonal fill the card in whole
// waves, as nearly as possible. cuBLAS's tiles of bf16 products are 128 by 256; a launch costs about a tenth of a wave more.
std::vector<int64_t> stripes(int64_t n) {
  constexpr int64_t kHeight = 128, kWidth = 256;
  const int64_t rows = (n + kHeight - 1) / kHeight;
  std::vector<double> cost(rows + 1, 0);
  std::vector<int64_t> height(rows, 1);
  for (int64_t row = rows - 1; row >= 0; --row) {
    const int64_t columns = (n - row * kHeight + kWidth - 1) / kWidth;
    cost[row] = INFINITY;
    for (int64_t h = 1; row + h <= rows; ++h) {
      const double waves = std::ceil(static_cast<double>(h * columns) / multiprocessors()) + 0.1 + cost[row + h];
      if (waves < cost[row]) cost[row] = waves, height[row] = h;
    }
  }
  std::vector<int64_t> begins;
  for (int64_t row = 0; row < rows; row += height[row]) begins.push_back(row * kHeight);
  begins.push_back(n);
  return begins;
}

void count(const GramArgs& args, double* flags) {
  sum(
      args.t, [flags] __device__(int64_t i) { return flags[i]; }, [args] __device__(double count) { args.skipped[0] += count; });
}

void gram_bf16(const GramArgs& args) {
  const int64_t t = args.t, n = args.n;
  auto* x = reinterpret_cast<uint16_t*>(args.x);
  Scratch<double> bad(t);
  clear_kernel<<<t, kThreads, 0, stream()>>>(x, bad, n);
  launched();
  count(args, bad);
  const std::vector<int64_t> begins = stripes(n);
  for (size_t s = 0; s + 1 < begins.size(); ++s) {
    const int64_t i0 = begins[s];
    cublas_gemm_bf16(true, false, begins[s + 1] - i0, n - i0, t, 1, x + i0, n, x + i0, n, 1, args.h + (i0 * n + i0) * sizeof(float), false, n);
  }
}

}  // namespace

void gram(const GramArgs& args) {
  const int64_t t = args.t, n = args.n;
  if (t == 0 || n == 0) return;
  if (args.bf16) return gram_bf16(args);
  auto* const whole = reinterpret_cast<double*>(args.h);
  Scratch<float> clean(t * n), product(std::min(kStripe, n) * n);
  Scratch<double> bad(t);
  clean_kernel<<<t, kThreads, 0, stream()>>>(reinterpret_cast<const float*>(args.x), clean, bad, n);
  launched();
  count(args, bad);
  for (int64_t i0 = 0; i0 < n; i0 += kStripe) {
    const int64_t height = std::min(kStripe, n - i0), width = n - i0;
    for (int64_t t0 = 0; t0 < t; t0 += kTokens) {
      const float* x = clean + t0 * n + i0;
      cublas_gemm(true, false, height, width, std::min(kTokens, t - t0), 1, x, n, x, n, 0, product, width);
      double* const h = whole + i0 * n + i0;
      const float* const part = product;
      each(height * width, [=] __device__(int64_t e) {
        const int64_t i = e / width, j = e % width;
        if (j >= i) h[i * n + j] += part[e];
      });
    }
  }
  mirror_upper(whole, n, 1.0);
}

}  // namespace ops
