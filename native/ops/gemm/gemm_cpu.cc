#include "gemm.h"

#include "../../core/blas.h"

namespace ops {

void gemm(const GemmArgs& args) {
  blas_gemm(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha, args.a + args.a_offset, args.lda, args.b + args.b_offset,
            args.ldb, args.beta, args.c + args.c_offset, args.ldc);
}

}  // namespace ops
