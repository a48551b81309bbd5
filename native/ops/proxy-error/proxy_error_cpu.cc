#include "proxy_error.h"

#include <vector>

#include "../../core/blas.h"
#include "../../core/parallel.h"

namespace ops {

namespace {

constexpr int64_t kRows = 256;     // of w at a time: bounds the memory for w − v
constexpr int64_t kColumns = 256;  // of h at a time

// Σ x∘y over [rows, width] with leading dimensions ldx, ldy.
double dot(const float* x, int64_t ldx, const float* y, int64_t ldy, int64_t rows, int64_t width) {
  double lanes[8] = {};
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; ++j) lanes[j & 7] += static_cast<double>(x[i * ldx + j]) * y[i * ldy + j];
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

// tr(x·h·xᵀ), x [rows, n]: with h cut into block columns, x·h·xᵀ = Σ_J (2·x[:, <J]·h[<J, J] + x[:, J]·h[J, J])·x[:, J]ᵀ.
double trace(const float* x, const float* h, int64_t rows, int64_t n) {
  const int64_t blocks = (n + kColumns - 1) / kColumns;
  std::vector<double> sums(blocks);
  parallel_for(blocks, 1, [&](int64_t piece, int64_t) {
    const int64_t block = blocks - 1 - piece;  // the longest first
    const int64_t j = block * kColumns, width = std::min(kColumns, n - j);
    thread_local std::vector<float> product(kRows * kColumns);
    blas_gemm(false, false, rows, width, width, 1.f, x + j, n, h + j * n + j, n, 0.f, product.data(), width);
    if (j) blas_gemm(false, false, rows, width, j, 2.f, x, n, h + j, n, 1.f, product.data(), width);
    sums[block] = dot(product.data(), width, x + j, n, rows, width);
  });
  double sum = 0;
  for (double part : sums) sum += part;
  return sum;
}

}  // namespace

void proxy_error(const ProxyErrorArgs& args) {
  const int64_t m = args.m, n = args.n;
  std::vector<float> difference(std::min(kRows, m) * n);
  args.out[0] = args.out[1] = 0;
  for (int64_t i = 0; i < m; i += kRows) {
    const int64_t rows = std::min(kRows, m - i);
    const float *w = args.w + i * n, *v = args.v + i * n;
    parallel_for(rows * n, 1 << 18, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; e < end; ++e) difference[e] = w[e] - v[e];
    });
    args.out[0] += trace(difference.data(), args.h, rows, n);
    args.out[1] += trace(w, args.h, rows, n);
  }
}

}  // namespace ops
