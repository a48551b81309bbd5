// Trellis-coded quantization of tiles, by exhaustive Viterbi search with tail-biting.
//
//   z       f32 [m, Ty]          tile r is rows [Tx·r, Tx·(r+1)), read row-major: a sequence of Tx·Ty weights
//   codes   u16 [m/Tx, steps]    states s_t, steps = Tx·Ty/V, s_t = (s_{t-1} << KV | new bits) mod 2^L, also from last to first
//   values  f32 [m, Ty]          table[s_t], in z's places
//
// minimise Σ_t |table[s_t] - z_t|² in two passes: the first, over the sequence turned by half, finds the bits that the
// last step and the first share; the second is exact given these bits. (QTIP, arXiv:2406.11235, algorithm 4.)
// Costs are integers (search.h) in quanta of 2^(shift + bits of the tag)/unit of squared error; f32 where bins = 0 (V = 1).
//
//   cost    2 passes × 2^L states / V a weight; 2 vector instructions a state for 32 (AVX-512), 16 or 8 sequences
//   memory  a thread: lanes × steps × (KV ≤ 4: 2^(L-KV)·KV/8 bytes; else 2^(L-KV)·2 bytes), 8…32 MiB at L = 16
//          and 256 weights, four times that at 1024; in f32 (steps + 1)·2^(L-KV)·4 bytes
#pragma once
#include <cstdint>

#include "../../core/args.h"

namespace ops {

struct TrellisEncodeArgs {
  const float* z;
  const float* table;     // [2^L, V]
  const int32_t* pairs;   // [bins, ⌈V/2⌉] distinct values in fixed point: component 0 (2) in the low 16 bits, 1 (3) in the high
  const int32_t* norms;   // [bins] |value|²·unit
  const uint16_t* order;  // [2^L] bins of states, as search.h says; pairs, norms, order: not read where bins = 0
  uint16_t* codes;
  float* values;
  int64_t m, Tx, Ty, L, KV, V, bins, shift;
  double unit;            // fixed point's units of squared error
  double target;          // fixed point of z: value·z in both fixed points is 2·value·z·unit
  double limit;           // |z| beyond it counts as it
  double radius;          // the longest value
  bool symmetric;         // table[s] = table[2^L - 1 - s]
  bool hashed;            // table[s] depends on (s(s+1) >> 6) mod 1024 alone: what a kernel may be made for
  template <class Visitor> void fields(Visitor& v) {
    v("z", z); v("table", table); v("pairs", pairs); v("norms", norms); v("order", order); v("codes", codes); v("values", values);
    v("m", m); v("Tx", Tx); v("Ty", Ty); v("L", L); v("KV", KV); v("V", V); v("bins", bins); v("shift", shift);
    v("unit", unit); v("target", target); v("limit", limit); v("radius", radius);
    v("symmetric", symmetric); v("hashed", hashed);
  }
};

void trellis_encode(const TrellisEncodeArgs& args);

}  // namespace ops
