#include "tiles.h"

#include <algorithm>

#include "../../core/error.h"
#include "../../core/parallel.h"

namespace ops {

void tiles_decode(const TilesDecodeArgs& a) {
  const int64_t across = a.n / a.Ty, steps = a.Tx * a.Ty / a.V;
  parallel_for(a.m / a.Tx * across, 64, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const uint16_t* codes = a.codes + tile * steps;
      float* out = a.out + tile / across * a.Tx * a.n + tile % across * a.Ty;
      for (int64_t t = 0; t < steps; ++t) {
        const int64_t code = codes[t];
        if (code >= a.states) fail("code %d of tile %d is %d, beyond the last of %d entries", int(t), int(tile), int(code), int(a.states));
        if (a.order) continue;
        for (int64_t v = 0; v < a.V; ++v) {
          const int64_t p = t * a.V + v;
          out[p / a.Ty * a.n + p % a.Ty] = a.table[code * a.V + v];
        }
      }
      if (!a.order) continue;
      for (int64_t e = 0; e < a.Tx * a.Ty; ++e) {
        const int64_t p = a.order[e];
        out[e / a.Ty * a.n + e % a.Ty] = a.table[codes[p / a.V] * a.V + p % a.V];
      }
    }
  });
}

void tiles_table(const TilesTableArgs& a) {
  for (int64_t s = 0; s < a.states; ++s) {
    const int64_t row = a.index[s] & 0xffff;
    if (row >= a.rows) fail("state %d reads row %d of a table of %d", int(s), int(row), int(a.rows));
    std::copy_n(a.entries + row * a.V, a.V, a.table + s * a.V);
    if (a.index[s] >> 16) a.table[s * a.V] = -a.table[s * a.V];
  }
}

void tiles_pack(const TilesPackArgs& a) {
  const int64_t KV = a.KV;
  const uint32_t shared = (1u << (a.L - KV)) - 1;
  parallel_for(a.tiles, 64, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const uint16_t* codes = a.codes + tile * a.steps;
      int16_t* packed = a.packed + tile * a.words;
      std::fill_n(packed, a.words, int16_t{0});
      // Step t's first KV bits open its state; the rest follow from the states after it.
      for (int64_t t = 0; t < a.steps; ++t) {
        const uint32_t next = codes[(t + 1) % a.steps];
        if ((codes[t] & shared) != next >> KV || codes[t] >> a.L) fail("codes %d and %d of tile %d do not overlap", int(t), int((t + 1) % a.steps), int(tile));
        const uint32_t bits = codes[t] >> (a.L - KV);
        for (int64_t b = 0; b < KV; ++b) {
          const int64_t at = t * KV + b;
          if (bits >> (KV - 1 - b) & 1) packed[at / 16] = int16_t(packed[at / 16] | 1 << (15 - at % 16));
        }
      }
    }
  });
}

void tiles_unpack(const TilesUnpackArgs& a) {
  const int64_t bits = a.steps * a.KV;
  parallel_for(a.tiles, 64, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int16_t* packed = a.packed + tile * a.words;
      const auto bit = [&](int64_t at) { return uint32_t(uint16_t(packed[at / 16])) >> (15 - at % 16) & 1; };
      uint32_t state = 0;
      for (int64_t at = 0; at < a.L; ++at) state = state << 1 | bit(at % bits);
      for (int64_t t = 0; t < a.steps; ++t) {
        a.codes[tile * a.steps + t] = uint16_t(state);
        for (int64_t b = 0; b < a.KV; ++b) state = state << 1 | bit((t * a.KV + a.L + b) % bits);
        state &= (1u << a.L) - 1;
      }
    }
  });
}

}  // namespace ops
