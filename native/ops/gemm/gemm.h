// Matrix product into a rectangle, through OpenBLAS or the built-in GEMM.
//
//   c = alpha · op(a) · op(b) + beta · c        op(a) [m, k], op(b) [k, n], c [m, n]
//
//   a, b, c    f32, row-major; each starts at its offset, its rows are lda, ldb, ldc elements apart as stored
//   beta       0 never reads c
//   cost       2·m·n·k operations
#pragma once
#include "../../core/args.h"

namespace ops {

struct GemmArgs {
  const float* a;
  const float* b;
  float* c;
  int64_t a_offset, b_offset, c_offset;
  int64_t lda, ldb, ldc;
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  float alpha, beta;
  template <class V>
  void fields(V& v) {
    v("a", a), v("b", b), v("c", c), v("aOffset", a_offset), v("bOffset", b_offset), v("cOffset", c_offset);
    v("lda", lda), v("ldb", ldb), v("ldc", ldc), v("m", m), v("n", n), v("k", k);
    v("transposeA", transpose_a), v("transposeB", transpose_b), v("alpha", alpha), v("beta", beta);
  }
};

void gemm(const GemmArgs& args);

}  // namespace ops
