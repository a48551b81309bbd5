// Causal attention of new rows over the keys and values that a cache holds for their sequences, and the rows' own, which
// are added to it first.
//
//   keys[s_i, p_i] = R(p_i)·k_i,  values[s_i, p_i] = v_i
//   out[i, h, :] = Σ_j softmax_j(scale · R(p_i)q[i, h, :]·keys[s_i, j, h', :]) · values[s_i, j, h', :]     h' = h / (heads / kvHeads)
//
// over j ≤ p_i, and p_i − j < window where there is one; s_i = slots[i], p_i = positions[i], R the rotation of rope.h.
//
//   q, out            f32 [t, heads·e]         k, v  f32 [t, kvHeads·e]      not turned yet
//   cos, sin          f32 [capacity, e/2]
//   slots, positions  i32 [t]                  no two rows have both in common. Out of range: an error on the CPU; on a GPU, which
//                                              would have to wait to see it, the row is NaN and nothing is kept of it
//   keys, values      f32 or bf16 [count·capacity, kvHeads·e]   row p of slot s at s·capacity + p; rows above p_i are not read
//   window            0: none
//                     In a recorded program on a GPU the cache, slots and positions are read while the op before still runs: no op of
//                     the program before this one writes them
//   cost              4·e multiply-adds and one exponential for each row, head and key in reach; a step of one row is bound by
//                     the 8 (bf16: 4) · kvHeads·e bytes of a position that it reads; on an H100 (README.md) by 3 µs before that
//
// Vaswani et al. (arXiv:1706.03762), section 3.2.1; RoFormer (arXiv:2104.09864); attention.h is the same for whole sequences.
#pragma once
#include "../../core/args.h"

namespace ops {

struct AttendCacheArgs {
  const float *q, *k, *v;            // [t, heads, e], [t, kvHeads, e], [t, kvHeads, e]
  const float *cos, *sin;            // [capacity, e/2]
  const int32_t *slots, *positions;  // [t]
  uint8_t *keys, *values;            // [count, capacity, kvHeads, e]
  float* out;                        // [t, heads, e]
  int64_t t, heads, kv_heads, e, count, capacity, window;
  float scale;
  bool bf16;  // of keys and values
  template <class V>
  void fields(V& visit) {
    visit("q", q), visit("k", k), visit("v", v), visit("cos", cos), visit("sin", sin), visit("slots", slots);
    visit("positions", positions), visit("keys", keys), visit("values", values), visit("out", out), visit("t", t);
    visit("heads", heads), visit("kvHeads", kv_heads), visit("e", e), visit("count", count), visit("capacity", capacity);
    visit("window", window), visit("scale", scale), visit("bf16", bf16);
  }
};

void attend_cache(const AttendCacheArgs& args);

}  // namespace ops
