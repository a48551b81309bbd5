// Logits of a distribution of which k classes are known and of the others their sum, which is shared among them as `like` has it:
//
//   out[i, j] = values[i, c]                                    where j = indices[i, c]
//             = like[i, j] − log Σ_o e^like[i, o] + rest[i]     elsewhere; o over all elsewhere
//
//   indices  i32 [t, k], values f32 [t, k], rest f32 [t]   as top_k gives them; different classes in a row
//   like     f32 [t, v]
//   out      f32 [t, v]   log-probabilities where Σ e^values + e^rest = 1; values and rest count as −200 at
//                         least, so that 0·log 0 is 0; elsewhere out may be below, as far as `like` is
//   cost     8 bytes moved an element, and an exponential; sums in f64
//
// With P = softmax(out) and Q = softmax(like), KL(P ‖ Q) is that of k + 1 classes, the others being one, and Q − P is its gradient.
// An index that is no class fails the queue; on CUDA it makes the row NaN.
#pragma once
#include "../../core/args.h"

namespace ops {

// The least logarithm of a probability.
constexpr float kLeastLog = -200;

struct SparseLogitsArgs {
  const int32_t* indices;  // [t, k]
  const float* values;     // [t, k]
  const float* rest;       // [t]
  const float* like;       // [t, v]
  float* out;              // [t, v]
  int64_t t, v, k;
  template <class V>
  void fields(V& visit) {
    visit("indices", indices), visit("values", values), visit("rest", rest), visit("like", like), visit("out", out);
    visit("t", t), visit("v", v), visit("k", k);
  }
};

void sparse_logits(const SparseLogitsArgs& args);

}  // namespace ops
