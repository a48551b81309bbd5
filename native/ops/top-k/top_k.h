// The k most likely of v classes and what is left for the others, P = softmax(logits[i, :]):
//
//   indices[i, :]  the k classes with the largest logits, the largest first; of equal ones the lowest class first
//   values[i, :]   log P of them
//   rest[i]        log Σ P of the others: −∞ where there are none
//
//   logits   f32 [t, v]
//   indices  i32 [t, k], values f32 [t, k], rest f32 [t]      1 ≤ k ≤ v, k ≤ 1024
//   cost     4 bytes read an element, on CUDA ten times from its cache; sums in f64
//
// NaN counts as larger than any number.
#pragma once
#include "../../core/args.h"
#include "../../core/ordered.h"

namespace ops {

struct TopKArgs {
  const float* logits;  // [t, v]
  int32_t* indices;     // [t, k]
  float* values;        // [t, k]
  float* rest;          // [t]
  int64_t t, v, k;
  template <class V>
  void fields(V& visit) {
    visit("logits", logits), visit("indices", indices), visit("values", values), visit("rest", rest), visit("t", t), visit("v", v), visit("k", k);
  }
};

// Numbers that are all different and ordered as the classes are to be: larger for a larger logit, then for a lower class.
PIPE_BOTH inline uint64_t top_k_key(float logit, int64_t j) {
  return static_cast<uint64_t>(ordered(logit)) << 32 | (0xffffffffu - static_cast<uint32_t>(j));
}
PIPE_BOTH inline int32_t top_k_class(uint64_t key) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key)); }

void top_k(const TopKArgs& args);

}  // namespace ops
