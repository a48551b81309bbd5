#include "gemm.h"

#include "../../core/cublas.h"
#include "../../core/cuda.cuh"

namespace ops {

void gemm(const GemmArgs& args) {
  if (args.k <= 0) {
    // an empty sum; cuBLAS would refuse the leading dimensions
    return each(args.m * args.n, [args] __device__(int64_t i) {
      float& element = args.c[args.c_offset + i / args.n * args.ldc + i % args.n];
      element = args.beta == 0 ? 0 : args.beta * element;
    });
  }
  cublas_gemm(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha, args.a + args.a_offset, args.lda, args.b + args.b_offset,
              args.ldb, args.beta, args.c + args.c_offset, args.ldc);
}

}  // namespace ops
