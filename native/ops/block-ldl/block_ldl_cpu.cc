#include "block_ldl.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "../../core/blas.h"
#include "../../core/parallel.h"

namespace ops {

namespace {

constexpr int64_t kPanel = 256;   // columns factored before what is right of them is updated: the depth of that product
constexpr int64_t kStep = 32;     // columns factored in f64 at a time
constexpr int64_t kUpdate = 512;  // block columns of the trailing update

// Inverts the lower triangular c [size, size] (leading dimension ldc) into inverse [size, size], f64.
void invert(const float* c, int64_t ldc, int64_t size, double* inverse) {
  std::fill_n(inverse, size * size, 0.0);
  for (int64_t j = 0; j < size; ++j) {
    inverse[j * size + j] = 1 / static_cast<double>(c[j * ldc + j]);
    for (int64_t i = j + 1; i < size; ++i) {
      double sum = 0;
      for (int64_t k = j; k < i; ++k) sum += static_cast<double>(c[i * ldc + k]) * inverse[k * size + j];
      inverse[i * size + j] = -sum / c[i * ldc + i];
    }
  }
}

// Cholesky of the diagonal block c [size, size], lower triangle, in f64. Returns the row that fails, or −1.
int64_t factor(float* c, int64_t ldc, int64_t size, double& pivot) {
  std::vector<double> a(size * size);
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = c[i * ldc + j];
      for (int64_t k = 0; k < j; ++k) sum -= a[i * size + k] * a[j * size + k];
      if (i > j) {
        a[i * size + j] = sum / a[j * size + j];
      } else {
        pivot = sum;
        if (!(sum > 0) || std::isinf(sum)) return i;
        a[i * size + i] = std::sqrt(sum);
      }
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j <= i; ++j) c[i * ldc + j] = static_cast<float>(a[i * size + j]);
  }
  return -1;
}

// rows[0 … count) · matrix [size, size] in place, f64 inside; rows have leading dimension ld.
void multiply(float* rows, int64_t ld, int64_t count, const double* matrix, int64_t size) {
  std::vector<double> out(size);
  for (int64_t r = 0; r < count; ++r) {
    std::fill(out.begin(), out.end(), 0.0);
    for (int64_t k = 0; k < size; ++k) {
      const double x = rows[r * ld + k];
      for (int64_t j = 0; j < size; ++j) out[j] += x * matrix[k * size + j];
    }
    for (int64_t j = 0; j < size; ++j) rows[r * ld + j] = static_cast<float>(out[j]);
  }
}

// c = Cholesky factor of c, lower triangle, in place. Returns the row that fails, or −1.
int64_t cholesky(float* c, int64_t n, double& pivot) {
  std::vector<double> inverse(kStep * kStep), transposed(kStep * kStep);
  for (int64_t p = 0; p < n; p += kPanel) {
    const int64_t end = std::min(n, p + kPanel);
    for (int64_t s = p; s < end; s += kStep) {
      const int64_t size = std::min(kStep, end - s), below = s + size;
      // c[s:, s:below] −= c[s:, p:s] · c[s:below, p:s]ᵀ
      if (s > p) blas_gemm(false, true, n - s, size, s - p, -1.f, c + s * n + p, n, c + s * n + p, n, 1.f, c + s * n + s, n);
      if (const int64_t row = factor(c + s * n + s, n, size, pivot); row >= 0) return s + row;
      invert(c + s * n + s, n, size, inverse.data());
      for (int64_t i = 0; i < size; ++i) {
        for (int64_t j = 0; j < size; ++j) transposed[i * size + j] = inverse[j * size + i];
      }
      parallel_for(n - below, 256, [&](int64_t from, int64_t to) {
        multiply(c + (below + from) * n + s, n, to - from, transposed.data(), size);
      });
    }
    for (int64_t j = end; j < n; j += kUpdate) {  // c[j:, j:j+w] −= c[j:, p:end] · c[j:j+w, p:end]ᵀ
      const int64_t width = std::min(kUpdate, n - j);
      blas_gemm(false, true, n - j, width, end - p, -1.f, c + j * n + p, n, c + j * n + p, n, 1.f, c + j * n + j, n);
    }
  }
  return -1;
}

}  // namespace

void block_ldl(const BlockLdlArgs& args) {
  const int64_t n = args.n, b = args.block;
  float* const l = args.l;
  parallel_for(n, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(l + i * n, args.h + i * n, (i + 1) * sizeof(float));
      std::fill(l + i * n + i + 1, l + (i + 1) * n, 0.f);
    }
  });
  double pivot = 0;
  const int64_t row = cholesky(l, n, pivot);
  args.pivot[0] = static_cast<double>(row);
  args.pivot[1] = row < 0 ? 0 : pivot;
  if (row >= 0) {
    std::memset(l, 0, n * n * sizeof(float));
    return;
  }
  const int64_t blocks = n / b;
  std::vector<double> inverses(n * b);
  parallel_for(blocks, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) invert(l + i * b * n + i * b, n, b, inverses.data() + i * b * b);
  });
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < i; ++j) multiply(l + i * b * n + j * b, n, b, inverses.data() + j * b * b, b);
      for (int64_t r = 0; r < b; ++r) std::fill_n(l + (i * b + r) * n + i * b, n - i * b, 0.f);
    }
  });
}

}  // namespace ops
