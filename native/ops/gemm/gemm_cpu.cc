#include "gemm.h"

#include <algorithm>
#include <vector>

#include "../../core/blas.h"
#include "../../core/gemm.h"
#include "../../core/half.h"
#include "../../core/parallel.h"

namespace ops {

namespace {

// The rectangle [rows, columns] of a bf16 matrix, widened and side by side.
std::vector<float> widened(const uint16_t* x, int64_t rows, int64_t columns, int64_t stride) {
  std::vector<float> values(rows * columns);
  parallel_for(rows, std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(columns, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < columns; ++j) values[i * columns + j] = bf16_to_f32(x[i * stride + j]);
    }
  });
  return values;
}

// Rounded into the rectangle [m, n].
void narrow(const std::vector<float>& c, int64_t m, int64_t n, uint16_t* into, int64_t stride) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) into[i * stride + j] = f32_to_bf16(c[i * n + j]);
  }
}

// x·Wᵀ for a few rows of x: reading W is what takes time, so it is read once, as it is.
void gemm_few(const GemmArgs& args) {
  const auto [m, n, k] = std::tuple{args.m, args.n, args.k};
  const std::vector<float> x = widened(reinterpret_cast<const uint16_t*>(args.a) + args.a_offset, m, k, args.lda);
  const uint16_t* const w = reinterpret_cast<const uint16_t*>(args.b) + args.b_offset;
  if (!args.c_bf16) {
    return gemm_few_rows(m, n, k, args.alpha, x.data(), k, w, args.ldb, args.beta, reinterpret_cast<float*>(args.c) + args.c_offset, args.ldc);
  }
  uint16_t* const into = reinterpret_cast<uint16_t*>(args.c) + args.c_offset;
  std::vector<float> c = args.beta == 0 ? std::vector<float>(m * n) : widened(into, m, n, args.ldc);
  gemm_few_rows(m, n, k, args.alpha, x.data(), k, w, args.ldb, args.beta, c.data(), n);
  narrow(c, m, n, into, args.ldc);
}

// The same for any number of rows of f32.
void gemm_mixed(const GemmArgs& args) {
  for (int64_t i = 0; i < args.m; i += kFewRows) {
    gemm_few_rows(std::min<int64_t>(kFewRows, args.m - i), args.n, args.k, args.alpha, reinterpret_cast<const float*>(args.a) + args.a_offset + i * args.lda,
                  args.lda, reinterpret_cast<const uint16_t*>(args.b) + args.b_offset, args.ldb, args.beta,
                  reinterpret_cast<float*>(args.c) + args.c_offset + i * args.ldc, args.ldc);
  }
}

// Operands widened, and the product in f32: what tensor cores compute, but for the order of the sum.
void gemm_bf16(const GemmArgs& args) {
  const auto [m, n, k] = std::tuple{args.m, args.n, args.k};
  const int64_t a_columns = args.transpose_a ? m : k, b_columns = args.transpose_b ? k : n;
  const std::vector<float> a =
      widened(reinterpret_cast<const uint16_t*>(args.a) + args.a_offset, args.transpose_a ? k : m, a_columns, args.lda);
  const std::vector<float> b =
      widened(reinterpret_cast<const uint16_t*>(args.b) + args.b_offset, args.transpose_b ? n : k, b_columns, args.ldb);
  const auto product = [&](float* c, int64_t ldc) {
    blas_gemm(args.transpose_a, args.transpose_b, m, n, k, args.alpha, a.data(), a_columns, b.data(), b_columns, args.beta, c, ldc);
  };
  if (!args.c_bf16) return product(reinterpret_cast<float*>(args.c) + args.c_offset, args.ldc);
  uint16_t* const into = reinterpret_cast<uint16_t*>(args.c) + args.c_offset;
  std::vector<float> c = args.beta == 0 ? std::vector<float>(m * n) : widened(into, m, n, args.ldc);
  product(c.data(), n);
  narrow(c, m, n, into, args.ldc);
}

}  // namespace

void gemm(const GemmArgs& args) {
  if (args.bf16) return args.m <= kFewRows && !args.transpose_a && args.transpose_b ? gemm_few(args) : gemm_bf16(args);
  if (args.b_bf16) return gemm_mixed(args);
  blas_gemm(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha, reinterpret_cast<const float*>(args.a) + args.a_offset,
            args.lda, reinterpret_cast<const float*>(args.b) + args.b_offset, args.ldb, args.beta,
            reinterpret_cast<float*>(args.c) + args.c_offset, args.ldc);
}

}  // namespace ops
