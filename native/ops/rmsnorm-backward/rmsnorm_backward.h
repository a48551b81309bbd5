// The way back through rmsnorm (ops/rmsnorm): with r = 1/sqrt(mean(x[t, :]²) + eps),
//
//   dx[t, j]    = r·weight[j]·dy[t, j] − x[t, j]·r³/n·Σ_i weight[i]·dy[t, i]·x[t, i]
//   gradient[j] += Σ_t dy[t, j]·x[t, j]·r
//
//   x, dy, dx         f32 [rows, n]   not the same buffers
//   weight, gradient  f32 [n]
//   cost              12 bytes moved an element on the CPU, 20 on CUDA; sums in a fixed order
#pragma once
#include "../../core/args.h"

namespace ops {

struct RmsnormBackwardArgs {
  const float* x;       // [rows, n]
  const float* weight;  // [n]
  const float* dy;      // [rows, n]
  float* dx;            // [rows, n]
  float* gradient;      // [n]
  int64_t rows, n;
  float eps;
  template <class V>
  void fields(V& v) {
    v("x", x), v("weight", weight), v("dy", dy), v("dx", dx), v("gradient", gradient), v("rows", rows), v("n", n), v("eps", eps);
  }
};

void rmsnorm_backward(const RmsnormBackwardArgs& args);

}  // namespace ops
