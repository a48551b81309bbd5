// The next token of each row of logits z, in this order, each on what the one before left:
//
//   repetition penalty r   z_i / r where z_i > 0, else z_i · r, in f32, for tokens seen before     arXiv:1909.05858, section 4.1
//   temperature T          p = softmax(z / T); 0: the largest z, of equal ones the lowest id, and none of what follows
//   top-k                  the k most likely, of equal ones the lowest ids; 0: all
//   top-p                  the fewest most likely that together have at least top-p; 1: all         arXiv:1904.09751, section 3.1
//   min-p                  those with at least min-p times the probability of the likeliest         arXiv:2407.01082, section 3
//
//   out[t] = the first of what is left, the likeliest first, with which their sum is more than u of it all
//
//   logits  f32 [t, v]     v ≤ 2²¹
//   how     f64 [t, 6]     r > 0, T ≥ 0, top-k, top-p, min-p ≥ 0, and u in [0, 1)
//   slots   i32 [t]        the row of `seen` that is the text's; all different
//   seen    u8 [s, v]      1: the token was seen. Read and added to where r is not 1
//   out     i32 [t]        −1 where a logit is NaN, the largest is infinite, the slot is none of s, or a number of `how` is none of these
//   cost    4 bytes read an element, on CUDA four to nine times from its cache; exponentials in f64
//
// Probabilities are whole multiples of 2⁻⁴⁰ of the likeliest's: their sums are exact in any order, and so are cuts and draws.
#pragma once
#include <cmath>
#include <cstring>

#include "../../core/args.h"
#include "../../core/ordered.h"

namespace ops {

struct SampleArgs {
  const float* logits;   // [t, v]
  const double* how;     // [t, 6]
  const int32_t* slots;  // [t]
  uint8_t* seen;         // [s, v]
  int32_t* out;          // [t]
  int64_t t, v, s;
  template <class V>
  void fields(V& visit) {
    visit("logits", logits), visit("how", how), visit("slots", slots), visit("seen", seen), visit("out", out), visit("t", t), visit("v", v), visit("s", s);
  }
};

// A row of `how`.
struct Drawing {
  double penalty, temperature, k, p, least, u;
};

PIPE_BOTH inline bool sample_can(const Drawing& how) {
  return how.penalty > 0 && how.temperature >= 0 && how.temperature < HUGE_VAL && how.k >= 0 && how.p >= 0 && how.least >= 0 && how.u >= 0 && how.u < 1;
}

PIPE_BOTH inline float sample_penalized(float z, double penalty) { return static_cast<float>(z > 0 ? z / penalty : z * penalty); }

// Ordered as logits are, for those that are numbers.
PIPE_BOTH inline uint32_t sample_key(float z) { return ordered(z + 0.f); }  // one zero
PIPE_BOTH inline float sample_logit(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float z;
  memcpy(&z, &bits, sizeof z);
  return z;
}

constexpr uint64_t kSampleOne = 1ull << 40;  // of the likeliest
PIPE_BOTH inline uint64_t sample_weight(float z, float most, double temperature) {
  return static_cast<uint64_t>(exp((static_cast<double>(z) - most) / temperature) * kSampleOne + 0.5);
}

// The least sum that is at least `share` of all, and at least one.
PIPE_BOTH inline uint64_t sample_enough(double share, uint64_t all) {
  const double enough = ceil(share * static_cast<double>(all));
  return enough < 1 ? 1 : enough < static_cast<double>(all) ? static_cast<uint64_t>(enough) : all;
}
// Where in `all` the random number falls.
PIPE_BOTH inline uint64_t sample_place(double u, uint64_t all) {
  const double place = u * static_cast<double>(all);
  return place < static_cast<double>(all - 1) ? static_cast<uint64_t>(place) : all - 1;
}

void sample(const SampleArgs& args);

}  // namespace ops
