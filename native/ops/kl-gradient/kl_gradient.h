// Divergence of a student's distribution from a teacher's, and its gradient: P = softmax(teacher[t, :]), Q = softmax(student[t, :]),
//
//   divergence[t]    = Σ_j P_j·(log P_j − log Q_j)     nats
//   cross_entropy[t] = −Σ_j P_j·log Q_j
//   gradient[t, j]   = factor·(Q_j − P_j)              that of either by the student's logits
//
//   teacher, student, gradient  f32 [t, v]   gradient may be either input
//   divergence, cross_entropy   f32 [t]
//   cost                        12 bytes moved and four exponentials an element; exponentials in f32, sums in f64
//
// Cross-entropy with dense soft labels is what QuIP# (arXiv:2402.04396, section 5) and QTIP train end to end.
#pragma once
#include "../../core/args.h"

namespace ops {

struct KlGradientArgs {
  const float* teacher;  // [t, v]
  const float* student;  // [t, v]
  float* divergence;     // [t]
  float* cross_entropy;  // [t]
  float* gradient;       // [t, v]
  int64_t t, v;
  float factor;
  template <class V>
  void fields(V& visit) {
    visit("teacher", teacher), visit("student", student), visit("divergence", divergence), visit("crossEntropy", cross_entropy);
    visit("gradient", gradient), visit("t", t), visit("v", v), visit("factor", factor);
  }
};

void kl_gradient(const KlGradientArgs& args);

}  // namespace ops
