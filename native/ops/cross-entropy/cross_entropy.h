// Negative log-likelihood of the next token.
//
//   out[t] = log Σ_j e^logits[t, j] − logits[t, targets[t]]      nats
//
//   logits   f32 [t, v]
//   targets  i32 [t]      −1: left out, out is 0; otherwise 0 ≤ target < v, another one is an error
//   out      f32 [t]
//   cost     4 bytes moved and one exponential an element; exponentials in f32, their sum in f64
#pragma once
#include "../../core/args.h"

namespace ops {

struct CrossEntropyArgs {
  const float* logits;     // [t, v]
  const int32_t* targets;  // [t]
  float* out;              // [t]
  int64_t t, v;
  template <class V>
  void fields(V& visit) {
    visit("logits", logits), visit("targets", targets), visit("out", out), visit("t", t), visit("v", v);
  }
};

void cross_entropy(const CrossEntropyArgs& args);

}  // namespace ops
