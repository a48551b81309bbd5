// Queries and keys of neighbouring rows of a cache's slot, turned, and values; keys and values are kept.
//
//   turned_q[i] = R(p)·q_i     seen_k[i] = keys[row + p] = R(p)·k_i     seen_v[i] = values[row + p] = v_i      p = before + i, R the rotation of rope.h
//
//   q         f32 or bf16 [t, heads·e]        k, v  of its type [t, kvHeads·e]
//   cos, sin  f32 [at least before + t, e/2]
//   keys, values                f32 or bf16 [at least row + before + t, kvHeads·e]
//   turned_q, seen_k, seen_v    f32 or bf16, as attention is to read them, of q's and k's shapes; each rounded once
//   cost      an element is read once, and written once or, of k and v, twice
//
// Su et al., RoFormer (arXiv:2104.09864), section 3.2.2. What attend_cache.h does beside its attention.
#pragma once
#include "../../core/args.h"

namespace ops {

struct KeepRowsArgs {
  const uint8_t *q, *k, *v;
  const float *cos, *sin;
  uint8_t *keys, *values, *turned_q, *seen_k, *seen_v;
  int64_t t, heads, kv_heads, half, row, before;
  bool given_bf16, kept_bf16, seen_bf16;
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("cos", cos), visit("sin", sin), visit("keys", keys), visit("values", values);
    visit("turnedQ", turned_q), visit("seenK", seen_k), visit("seenV", seen_v), visit("t", t), visit("heads", heads), visit("kvHeads", kv_heads);
    visit("half", half), visit("row", row), visit("before", before);
    visit("givenBf16", given_bf16), visit("keptBf16", kept_bf16), visit("seenBf16", seen_bf16);
  }
};

void keep_rows(const KeepRowsArgs& args);

}  // namespace ops
