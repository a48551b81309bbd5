#include "block_ldl.h"

#include "../../core/cublas.h"
#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

constexpr int64_t kPanel = 256;    // columns factored before what is right of them is updated: the depth of that product
constexpr int kStep = 32;          // columns factored in f64 at a time: a warp's width
constexpr int64_t kUpdate = 1024;  // block columns of the trailing update
constexpr int64_t kTile = 8192;    // elements of l that a block keeps for its product with an inverse

// Cholesky of the diagonal block c [size, size] in f64, and inverse [kStep, kStep], f64, of the factor as rounded to f32.
// pivot[0] ≥ 0: a pivot before failed, and nothing is done.
__global__ void factor_kernel(float* c, int64_t ldc, int size, int64_t row0, double* inverse, double* pivot) {
  __shared__ double a[kStep][kStep + 1];
  const int i = threadIdx.x, j = threadIdx.y;  // all threads see the same pivot
  if (pivot[0] >= 0) return;
  a[i][j] = i < size && j <= i ? c[i * ldc + j] : i == j;
  __syncthreads();
  for (int k = 0; k < size; ++k) {
    const double found = a[k][k];
    if (!(found > 0) || isinf(found)) {
      if (i == 0 && j == 0) pivot[0] = static_cast<double>(row0 + k), pivot[1] = found;
      return;
    }
    const double root = sqrt(found);
    __syncthreads();
    if (j == k && i >= k) a[i][k] = i == k ? root : a[i][k] / root;
    __syncthreads();
    if (j > k && i >= j) a[i][j] -= a[i][k] * a[j][k];
    __syncthreads();
  }
  const float rounded = static_cast<float>(a[i][j]);
  a[i][j] = rounded;
  if (i < size && j <= i) c[i * ldc + j] = rounded;
  __syncthreads();
  if (i > 0) return;  // one thread a column
  for (int r = 0; r < j; ++r) inverse[r * kStep + j] = 0;
  for (int r = j; r < kStep; ++r) {
    double sum = r == j;
    for (int k = j; k < r; ++k) sum -= a[r][k] * inverse[k * kStep + j];
    inverse[r * kStep + j] = sum / a[r][r];
  }
}

// rows · inverseᵀ in place, f64 inside: a warp a row.
__global__ void __launch_bounds__(kThreads) panel_kernel(float* rows, int64_t ld, int64_t count, int size, const double* inverse, const double* pivot) {
  __shared__ double shared[kStep][kStep + 1];
  if (pivot[0] >= 0) return;
  for (int e = threadIdx.x; e < kStep * kStep; e += kThreads) shared[e / kStep][e % kStep] = inverse[e];
  __syncthreads();
  const int lane = threadIdx.x % kStep;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * (kThreads / kStep) + threadIdx.x / kStep;
  if (r >= count) return;
  const float own = lane < size ? rows[r * ld + lane] : 0;
  double sum = 0;
  for (int k = 0; k < size; ++k) sum += static_cast<double>(__shfl_sync(~0u, own, k)) * shared[lane][k];
  if (lane < size) rows[r * ld + lane] = static_cast<float>(sum);
}

// inverses[i] [b, b] of the i-th diagonal block of c: one block each, a thread a column.
__global__ void invert_kernel(const float* c, int64_t n, int64_t b, double* inverses) {
  const float* block = c + blockIdx.x * b * (n + 1);
  double* inverse = inverses + blockIdx.x * b * b;
  for (int64_t j = threadIdx.x; j < b; j += blockDim.x) {
    for (int64_t r = 0; r < j; ++r) inverse[r * b + j] = 0;
    for (int64_t r = j; r < b; ++r) {
      double sum = r == j;
      for (int64_t k = j; k < r; ++k) sum -= static_cast<double>(block[r * n + k]) * inverse[k * b + j];
      inverse[r * b + j] = sum / block[r * n + r];
    }
  }
}

// l[r, i] = c[r, i] · inverses[i] below block i, 0 in it, in place: `rows` rows of block column blockIdx.y.
__global__ void __launch_bounds__(kThreads) column_kernel(float* l, int64_t n, int64_t b, int64_t rows, const double* inverses, const double* pivot) {
  extern __shared__ float tile[];
  const int64_t column = blockIdx.y * b, first = blockIdx.x * rows, last = min(n, first + rows);
  const double* inverse = inverses + blockIdx.y * b * b;
  const bool failed = pivot[0] >= 0;
  if (!failed && last <= column) return;  // above: 0 already
  for (int64_t e = threadIdx.x; e < (last - first) * b; e += kThreads) tile[e] = l[(first + e / b) * n + column + e % b];
  __syncthreads();
  for (int64_t e = threadIdx.x; e < (last - first) * b; e += kThreads) {
    const int64_t r = first + e / b, j = e % b;
    double sum = 0;
    if (!failed && r >= column + b) {
      for (int64_t k = j; k < b; ++k) sum += static_cast<double>(tile[e / b * b + k]) * inverse[k * b + j];
    }
    l[r * n + column + j] = static_cast<float>(sum);
  }
}

}  // namespace

void block_ldl(const BlockLdlArgs& args) {
  const int64_t n = args.n, b = args.block;
  double* const pivot = args.pivot;
  each(1, [pivot] __device__(int64_t) { pivot[0] = -1, pivot[1] = 0; });
  if (n == 0) return;
  float* const c = args.l;
  each(n * n, [args, c] __device__(int64_t e) { c[e] = e % args.n <= e / args.n ? args.h[e] : 0; });

  // c = Cholesky factor of c, in the lower triangle; what is above stays or becomes anything.
  Scratch<double> inverse(kStep * kStep);
  for (int64_t p = 0; p < n; p += kPanel) {
    const int64_t end = std::min(n, p + kPanel);
    for (int64_t s = p; s < end; s += kStep) {
      const int64_t size = std::min<int64_t>(kStep, end - s), below = s + size;
      // c[s:, s:below] −= c[s:, p:s] · c[s:below, p:s]ᵀ
      if (s > p) cublas_gemm(false, true, n - s, size, s - p, -1, c + s * n + p, n, c + s * n + p, n, 1, c + s * n + s, n);
      factor_kernel<<<1, dim3(kStep, kStep), 0, stream()>>>(c + s * n + s, n, static_cast<int>(size), s, inverse, pivot);
      launched();
      if (below == n) continue;
      constexpr int64_t kWarps = kThreads / kStep;
      panel_kernel<<<(n - below + kWarps - 1) / kWarps, kThreads, 0, stream()>>>(c + below * n + s, n, n - below, static_cast<int>(size), inverse,
                                                                               pivot);
      launched();
    }
    for (int64_t j = end; j < n; j += kUpdate) {  // c[j:, j:j+w] −= c[j:, p:end] · c[j:j+w, p:end]ᵀ
      const int64_t width = std::min(kUpdate, n - j);
      cublas_gemm(false, true, n - j, width, end - p, -1, c + j * n + p, n, c + j * n + p, n, 1, c + j * n + j, n);
    }
  }

  Scratch<double> inverses(n * b);
  invert_kernel<<<n / b, std::min<int64_t>(b, kThreads), 0, stream()>>>(c, n, b, inverses);
  launched();
  each(n * n, [args, c] __device__(int64_t e) {
    if (e % args.n > e / args.n) c[e] = 0;
  });
  const int64_t rows = std::max<int64_t>(1, kTile / b);
  const size_t bytes = rows * b * sizeof(float);
  allow_shared(column_kernel, bytes);
  column_kernel<<<dim3((n + rows - 1) / rows, n / b), kThreads, bytes, stream()>>>(c, n, b, rows, inverses, pivot);
  launched();
}

}  // namespace ops
