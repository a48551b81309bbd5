// One step of Adam, in place.
//
//   m = beta1·m + (1 − beta1)·g      v = beta2·v + (1 − beta2)·g²
//   value -= rate/(1 − beta1^step) · m / (sqrt(v)/sqrt(1 − beta2^step) + eps)
//
//   value, m, v  f32 [n]   read and written; m and v zeros before step 1
//   gradient g   f32 [n]
//   cost         28 bytes moved an element
//
// Kingma and Ba, Adam (arXiv:1412.6980), algorithm 1, in the order of operations that PyTorch has.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AdamArgs {
  float* value;           // [n]
  const float* gradient;  // [n]
  float* m;               // [n]
  float* v;               // [n]
  int64_t n, step;
  double rate, beta1, beta2, eps;
  template <class V>
  void fields(V& visit) {
    visit("value", value), visit("gradient", gradient), visit("m", m), visit("v", v), visit("n", n), visit("step", step);
    visit("rate", rate), visit("beta1", beta1), visit("beta2", beta2), visit("eps", eps);
  }
};

void adam(const AdamArgs& args);

}  // namespace ops
