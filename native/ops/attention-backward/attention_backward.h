// The way back through attention (ops/attention). With the probabilities P[i, j] = softmax_j(scale·q[i]·k[j]) of a head over
// the keys in reach, made again here, and D[i] = Σ_j P[i, j]·(dy[i]·v[j]),
//
//   S[i, j] = scale·P[i, j]·(dy[i]·v[j] − D[i])
//   dq[i] = Σ_j S[i, j]·k[j]      dk[j] = Σ_i S[i, j]·q[i]      dv[j] = Σ_i P[i, j]·dy[i]
//
// where dk and dv are summed over the heads that share a key, in order.
//
//   q, dy, dq     f32 [t, heads·e]     no output is an input
//   k, v, dk, dv  f32 [t, kvHeads·e]
//   length        rows of a sequence; t is a multiple
//   window        0: none
//   cost          10·e multiply-adds and one exponential for each query, head and key in reach; on CUDA 18·e and three
//
// Dao et al., FlashAttention (arXiv:2205.14135), appendix B.4.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AttentionBackwardArgs {
  const float* q;   // [t, heads, e]
  const float* k;   // [t, kvHeads, e]
  const float* v;   // [t, kvHeads, e]
  const float* dy;  // [t, heads, e]
  float* dq;        // [t, heads, e]
  float* dk;        // [t, kvHeads, e]
  float* dv;        // [t, kvHeads, e]
  int64_t t, heads, kv_heads, e, length, window;
  float scale;
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("dy", dy), visit("dq", dq), visit("dk", dk), visit("dv", dv);
    visit("t", t), visit("heads", heads), visit("kvHeads", kv_heads), visit("e", e), visit("length", length);
    visit("window", window), visit("scale", scale);
  }
};

void attention_backward(const AttentionBackwardArgs& args);

}  // namespace ops
