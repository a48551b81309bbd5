// Causal attention within sequences, with grouped keys and values.
//
//   out[i, h, :] = Σ_j softmax_j(scale · q[i, h, :]·k[j, h', :]) · v[j, h', :]      h' = h / (heads / kvHeads)
//
// over keys j of the same sequence with j ≤ i, and i − j < window where there is one. Queries that go on after `before` rows: i counts from
// `before`, and keys are the rows of k and v from `row` on.
//
//   q, out  [t, heads·e]     all f32, or all bf16: scores, softmax and sums are in f32 then, on a GPU with the weights of
//   k, v    [t, kvHeads·e]   the softmax rounded to bf16; where `wide`, out is f32 all the same
//   length  rows of a sequence; t is a multiple
//   before  0, or one sequence; k, v [at least row + before + t, kvHeads·e]
//   window  0: none
//   cost    4·e multiply-adds and one exponential for each query, head and key in reach
//
// Vaswani et al. (arXiv:1706.03762), section 3.2.1; grouped as in Ainslie et al. (arXiv:2305.13245); sliding window as
// in Mistral 7B (arXiv:2310.06825), section 2.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AttentionArgs {
  const uint8_t* q;  // [t, heads, e]
  const uint8_t* k;  // [row + before + t, kvHeads, e]
  const uint8_t* v;
  uint8_t* out;      // [t, heads, e]
  int64_t t, heads, kv_heads, e, length, row, before, window;
  float scale;
  bool bf16, wide;
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("out", out), visit("t", t), visit("heads", heads);
    visit("kvHeads", kv_heads), visit("e", e), visit("length", length), visit("row", row), visit("before", before);
    visit("window", window), visit("scale", scale), visit("bf16", bf16), visit("wide", wide);
  }
};

void attention(const AttentionArgs& args);

// attention_bf16_cuda.cu: on tensor cores.
void attention_bf16(const AttentionArgs& args);

}  // namespace ops
