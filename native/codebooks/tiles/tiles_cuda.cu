#include "tiles.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

constexpr int64_t kNone = INT64_MAX;

// The smallest i < n for which bad(i) is true, or kNone. Waits for the device: what is read from files is checked before use.
template <class F>
int64_t first(int64_t n, F bad) {
  Scratch<unsigned long long> found(1);
  unsigned long long* const least = found;
  check(cudaMemsetAsync(least, 0x7f, sizeof *least, stream()));
  each(n, [least, bad] __device__(int64_t i) {
    if (bad(i)) atomicMin(least, static_cast<unsigned long long>(i));
  });
  const int64_t at = static_cast<int64_t>(to_host(least, 1)[0]);
  return at < n ? at : kNone;
}

}  // namespace

void tiles_decode(const TilesDecodeArgs& a) {
  const int64_t across = a.n / a.Ty, steps = a.Tx * a.Ty / a.V, codes = a.m / a.Tx * across * steps;
  if (a.states < 65536) {  // else every u16 is a state
    if (const int64_t i = first(codes, [a] __device__(int64_t i) { return a.codes[i] >= a.states; }); i != kNone) {
      fail("code %d of tile %d is %d, beyond the last of %d entries", int(i % steps), int(i / steps), int(to_host(a.codes + i, 1)[0]), int(a.states));
    }
  }
  each(a.m * a.n, [=] __device__(int64_t e) {
    const int64_t i = e / a.n, j = e % a.n, tile = i / a.Tx * across + j / a.Ty, at = i % a.Tx * a.Ty + j % a.Ty;
    const int64_t p = a.order ? a.order[at] : at;
    a.out[e] = a.table[a.codes[tile * steps + p / a.V] * a.V + p % a.V];
  });
}

void tiles_table(const TilesTableArgs& a) {
  if (const int64_t s = first(a.states, [a] __device__(int64_t s) { return (a.index[s] & 0xffff) >= a.rows; }); s != kNone) {
    fail("state %d reads row %d of a table of %d", int(s), int(to_host(a.index + s, 1)[0] & 0xffff), int(a.rows));
  }
  each(a.states * a.V, [a] __device__(int64_t e) {
    const int32_t index = a.index[e / a.V];
    const float value = a.entries[(index & 0xffff) * a.V + e % a.V];
    a.table[e] = index >> 16 && e % a.V == 0 ? -value : value;
  });
}

void tiles_pack(const TilesPackArgs& a) {
  const int64_t KV = a.KV;
  const uint32_t shared = (1u << (a.L - KV)) - 1;
  const int64_t i = first(a.tiles * a.steps, [a, KV, shared] __device__(int64_t i) {
    const uint32_t code = a.codes[i], next = a.codes[i / a.steps * a.steps + (i + 1) % a.steps];
    return (code & shared) != next >> KV || code >> a.L;
  });
  if (i != kNone) fail("codes %d and %d of tile %d do not overlap", int(i % a.steps), int((i % a.steps + 1) % a.steps), int(i / a.steps));
  each(a.tiles * a.words, [a, KV] __device__(int64_t e) {
    const uint16_t* codes = a.codes + e / a.words * a.steps;
    uint32_t word = 0;
    for (int64_t b = 0; b < 16; ++b) {
      const int64_t at = e % a.words * 16 + b;
      const uint32_t bit = at < a.steps * KV ? codes[at / KV] >> (a.L - 1 - at % KV) & 1 : 0;
      word = word << 1 | bit;
    }
    a.packed[e] = static_cast<int16_t>(word);
  });
}

void tiles_unpack(const TilesUnpackArgs& a) {
  const int64_t bits = a.steps * a.KV;
  each(a.tiles * a.steps, [a, bits] __device__(int64_t e) {
    const int16_t* packed = a.packed + e / a.steps * a.words;
    uint32_t state = 0;
    for (int64_t b = 0; b < a.L; ++b) {
      const int64_t at = (e % a.steps * a.KV + b) % bits;
      state = state << 1 | (static_cast<uint16_t>(packed[at / 16]) >> (15 - at % 16) & 1);
    }
    a.codes[e] = static_cast<uint16_t>(state);
  });
}

}  // namespace ops
