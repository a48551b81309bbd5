// Cross-entropy of logits with sparse labels, and its gradient: hard labels (k = 1, weights all 1) or the k likeliest
// tokens of a teacher with their probabilities. With Q = softmax(logits[t, :]) and W = Σ_k weights[t, k],
//
//   loss[t]        = −Σ_k weights[t, k]·log Q[targets[t, k]]      nats
//   gradient[t, j] = factor·(W·Q[j] − Σ_{k: targets[t, k] = j} weights[t, k])
//
//   logits, gradient  f32 [t, v]   not the same buffer
//   targets           i32 [t, k]   −1: no label; otherwise 0 ≤ target < v, another one is an error
//   weights           f32 [t, k], or null: all 1
//   loss              f32 [t]
//   cost              8 bytes moved and two exponentials an element; exponentials in f32, their sum in f64
#pragma once
#include "../../core/args.h"

namespace ops {

struct CrossEntropyGradientArgs {
  const float* logits;     // [t, v]
  const int32_t* targets;  // [t, k]
  const float* weights;    // [t, k] or null
  float* loss;             // [t]
  float* gradient;         // [t, v]
  int64_t t, v, k;
  float factor;
  template <class V>
  void fields(V& visit) {
    visit("logits", logits), visit("targets", targets), visit("weights", weights, optional), visit("loss", loss);
    visit("gradient", gradient), visit("t", t), visit("v", v), visit("k", k), visit("factor", factor);
  }
};

void cross_entropy_gradient(const CrossEntropyGradientArgs& args);

}  // namespace ops
