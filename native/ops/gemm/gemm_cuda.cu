#include "gemm.h"

#include "../../core/cublas.h"
#include "../../core/cuda.cuh"

namespace ops {

void gemm(const GemmArgs& args) {
  if (args.k <= 0) {
    // an empty sum; cuBLAS would refuse the leading dimensions
    const auto [c, n, ldc, beta] = std::tuple(args.c + args.c_offset, args.n, args.ldc, args.beta);
    return each(args.m * n, [c = c, n = n, ldc = ldc, beta = beta] __device__(int64_t i) {
      float& element = c[i / n * ldc + i % n];
      element = beta == 0 ? 0 : beta * element;
    });
  }
  cublas_gemm(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha, args.a + args.a_offset, args.lda, args.b + args.b_offset,
              args.ldb, args.beta, args.c + args.c_offset, args.ldc);
}

}  // namespace ops
