// The way back through attention (ops/attention). With the probabilities P[i, j] = softmax_j(scale·q[i]·k[j]) of a head over
// the keys in reach, made again here, and D[i] = Σ_j P[i, j]·(dy[i]·v[j]),
//
//   S[i, j] = scale·P[i, j]·(dy[i]·v[j] − D[i])
//   dq[i] = Σ_j S[i, j]·k[j]      dk[j] = Σ_i S[i, j]·q[i]      dv[j] = Σ_i P[i, j]·dy[i]
//
// where dk and dv are summed over the heads that share a key, in order.
//
//   q, dy  [t, heads·e]     all f32, or all bf16: everything else is in f32 then, on a GPU with P and S rounded to bf16
//   k, v   [t, kvHeads·e]   where heads have at most 128 elements
//   dq     f32 [t, heads·e]
//   dk, dv f32 [t, kvHeads·e]
//   length        rows of a sequence; t is a multiple
//   window        0: none
//   cost          10·e multiply-adds and one exponential for each query, head and key in reach; on CUDA 18·e and three
//
// Dao et al., FlashAttention (arXiv:2205.14135), appendix B.4.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AttentionBackwardArgs {
  const uint8_t* q;   // [t, heads, e]
  const uint8_t* k;   // [t, kvHeads, e]
  const uint8_t* v;   // [t, kvHeads, e]
  const uint8_t* dy;  // [t, heads, e]
  float* dq;          // [t, heads, e]
  float* dk;          // [t, kvHeads, e]
  float* dv;          // [t, kvHeads, e]
  int64_t t, heads, kv_heads, e, length, window;
  float scale;
  bool bf16;  // q, k, v and dy
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("dy", dy), visit("dq", dq), visit("dk", dk), visit("dv", dv);
    visit("t", t), visit("heads", heads), visit("kvHeads", kv_heads), visit("e", e), visit("length", length);
    visit("window", window), visit("scale", scale), visit("bf16", bf16);
  }
};

void attention_backward(const AttentionBackwardArgs& args);

// attention_backward_bf16_cuda.cu: on tensor cores; heads of at most 128 elements.
void attention_backward_bf16(const AttentionBackwardArgs& args);

}  // namespace ops
