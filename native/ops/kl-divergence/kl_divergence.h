// Kullback–Leibler divergence between the distributions of two rows of logits.
//
//   out[t] = Σ_j P_j · (log P_j − log Q_j)      P = softmax(p[t, :]), Q = softmax(q[t, :]); nats
//
//   p, q  f32 [t, v]
//   out   f32 [t]      exactly 0 where the rows are equal
//   cost  8 bytes moved and three exponentials an element; exponentials in f32, sums in f64
#pragma once
#include "../../core/args.h"

namespace ops {

struct KlDivergenceArgs {
  const float* p;  // [t, v]
  const float* q;  // [t, v]
  float* out;      // [t]
  int64_t t, v;
  template <class V>
  void fields(V& visit) {
    visit("p", p), visit("q", q), visit("out", out), visit("t", t), visit("v", v);
  }
};

void kl_divergence(const KlDivergenceArgs& args);

}  // namespace ops
