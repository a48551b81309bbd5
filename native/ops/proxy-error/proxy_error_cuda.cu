#include "proxy_error.h"

#include "../../core/cublas.h"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

constexpr int64_t kRows = 1024;  // of w at a time: bounds the memory for w − v and the product

// into[0] += tr(x·h·xᵀ), x [rows, n]; product [rows, n] is scratch.
void add_trace(const float* x, const float* h, float* product, int64_t rows, int64_t n, double* into) {
  cublas_gemm(false, false, rows, n, n, 1, x, n, h, n, 0, product, n);
  sum(
      rows * n, [=] __device__(int64_t e) { return static_cast<double>(product[e]) * x[e]; },
      [=] __device__(double total) { *into += total; });
}

}  // namespace

void proxy_error(const ProxyErrorArgs& args) {
  const int64_t m = args.m, n = args.n;
  check(cudaMemsetAsync(args.out, 0, 2 * sizeof(double), stream()));
  if (m == 0 || n == 0) return;
  Scratch<float> difference(std::min(kRows, m) * n), product(std::min(kRows, m) * n);
  for (int64_t i = 0; i < m; i += kRows) {
    const int64_t rows = std::min(kRows, m - i);
    const float *w = args.w + i * n, *v = args.v + i * n;
    float* const d = difference;
    each(rows * n, [=] __device__(int64_t e) { d[e] = w[e] - v[e]; });
    add_trace(d, args.h, product, rows, n, args.out);
    add_trace(w, args.h, product, rows, n, args.out + 1);
  }
}

}  // namespace ops
