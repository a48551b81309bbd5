// Causal attention of a few new rows over all keys and values before them, kept in a cache.
//
//   out[i, h, :] = Σ_j softmax_j(scale · q[i, h, :]·k[j, h', :]) · v[j, h', :]      h' = h / (heads / kvHeads)
//
// over j ≤ start + i, and start + i − j < window where there is one: row i of q is at position start + i, row j of the
// cache at position j.
//
//   q, out  f32 [t, heads·e]
//   k, v    f32 [capacity, kvHeads·e]   start + t ≤ capacity; rows from start + t on are not read
//   window  0: none
//   cost    4·e multiply-adds and one exponential for each query, head and key in reach; a step of one row is bound by
//           the 8·kvHeads·e bytes of a position that it reads
//
// Vaswani et al. (arXiv:1706.03762), section 3.2.1; attention.h is the same for whole sequences.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AttendCacheArgs {
  const float* q;  // [t, heads, e]
  const float* k;  // [capacity, kvHeads, e]
  const float* v;  // [capacity, kvHeads, e]
  float* out;      // [t, heads, e]
  int64_t t, heads, kv_heads, e, start, window;
  float scale;
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("out", out), visit("t", t), visit("heads", heads);
    visit("kvHeads", kv_heads), visit("e", e), visit("start", start), visit("window", window), visit("scale", scale);
  }
};

void attend_cache(const AttendCacheArgs& args);

}  // namespace ops
