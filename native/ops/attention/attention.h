// Causal attention within sequences, with grouped keys and values.
//
//   out[i, h, :] = Σ_j softmax_j(scale · q[i, h, :]·k[j, h', :]) · v[j, h', :]      h' = h / (heads / kvHeads)
//
// over keys j of the same sequence with j ≤ i, and i − j < window where there is one.
//
//   q, out  f32 [t, heads·e]
//   k, v    f32 [t, kvHeads·e]
//   length  rows of a sequence; t is a multiple
//   window  0: none
//   cost    4·e multiply-adds and one exponential for each query, head and key in reach
//
// Vaswani et al. (arXiv:1706.03762), section 3.2.1; grouped as in Ainslie et al. (arXiv:2305.13245); sliding window as
// in Mistral 7B (arXiv:2310.06825), section 2.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AttentionArgs {
  const float* q;  // [t, heads, e]
  const float* k;  // [t, kvHeads, e]
  const float* v;  // [t, kvHeads, e]
  float* out;      // [t, heads, e]
  int64_t t, heads, kv_heads, e, length, window;
  float scale;
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("out", out), visit("t", t), visit("heads", heads);
    visit("kvHeads", kv_heads), visit("e", e), visit("length", length), visit("window", window), visit("scale", scale);
  }
};

void attention(const AttentionArgs& args);

}  // namespace ops
