// defines: ops::gemm_blocked, the built-in GEMM: packs panels of A and B, then runs micro-kernels over tiles of C.
#pragma once
#include <cstdint>

namespace ops {

// As blas_gemm in blas.h.
void gemm_blocked(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                  const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace ops
