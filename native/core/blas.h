// defines: ops::blas_gemm, C = alpha·op(A)·op(B) + beta·C in f32.
//
// OpenBLAS, where the machine has one, is loaded at run time and never linked; otherwise the built-in blocked GEMM
// (gemm.h) serves. The result does not depend on the number of threads.
#pragma once
#include <cstdint>
#include <string>

namespace ops {

// An OpenBLAS that was found.
struct Blas {
  std::string path;
  void (*sgemm)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
};

// PIPE_OPENBLAS=path loads that one or throws; =off gives null; unset looks for libopenblas.so.0 and libopenblas.so.
const Blas* detect_blas();

// c [m, n] = alpha · op(a) [m, k] · op(b) [k, n] + beta · c, row-major with leading dimensions lda, ldb, ldc (elements
// from one row to the next as stored). beta = 0 never reads c. c must not overlap a or b.
void blas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
               int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace ops
