// Matrix product into a rectangle, through OpenBLAS, the built-in GEMM or cuBLAS.
//
//   c = alpha · op(a) · op(b) + beta · c        op(a) [m, k], op(b) [k, n], c [m, n]
//
//   a, b, c    f32, or a and b bf16 and c either; or, a·bᵀ on the CPU, b alone bf16; row-major; each starts at its offset, its rows are lda, ldb, ldc elements
//              apart as stored. Sums are in f32.
//   beta       0 never reads c
//   cost       2·m·n·k operations
#pragma once
#include "../../core/args.h"

namespace ops {

struct GemmArgs {
  const uint8_t* a;
  const uint8_t* b;
  uint8_t* c;
  int64_t a_offset, b_offset, c_offset;
  int64_t lda, ldb, ldc;
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  bool bf16, c_bf16;  // a and b; c
  float alpha, beta;
  bool b_bf16 = false;  // b alone
  template <class V>
  void fields(V& v) {
    v("a", a), v("b", b), v("c", c), v("aOffset", a_offset), v("bOffset", b_offset), v("cOffset", c_offset);
    v("lda", lda), v("ldb", ldb), v("ldc", ldc), v("m", m), v("n", n), v("k", k);
    v("transposeA", transpose_a), v("transposeB", transpose_b), v("bf16", bf16), v("cBf16", c_bf16), v("bBf16", b_bf16);
    v("alpha", alpha), v("beta", beta);
  }
};

void gemm(const GemmArgs& args);

}  // namespace ops
