// defines: ops::gemm_blocked, the built-in GEMM: packs panels of A and B, then runs micro-kernels over tiles of C.
#pragma once
#include <cstdint>

namespace ops {

template <class T>
void gemm_blocked(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
                  int64_t ldb, T beta, T* c, int64_t ldc);

}  // namespace ops
