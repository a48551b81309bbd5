// What all codebooks of states share: a tile of Tx × Ty weights is `steps` codes, each an entry of a table of 2^L rows of
// V weights, read row-major or in an order of their own; consecutive states overlap in all but KV bits. (A scalar code is the
// case L = KV, V = 1.)
#pragma once
#include <cstdint>

#include "../../core/args.h"

namespace ops {

// out[tile (a, c)] = table[codes]; tiles row-major over [m/Tx, n/Ty]. Codes must be below `states`. Cost: one gather a weight.
// order: the place in the sequence of each weight of a tile, weights row-major; null: row-major as well.
struct TilesDecodeArgs {
  const uint16_t* codes;  // [tiles, steps]
  const float* table;     // [states, V]
  const int32_t* order;   // [Tx·Ty], a permutation, or null
  float* out;             // [m, n]
  int64_t m, n, Tx, Ty, V, states;
  template <class Visitor> void fields(Visitor& v) {
    v("codes", codes); v("table", table); v("order", order, optional); v("out", out);
    v("m", m); v("n", n); v("Tx", Tx); v("Ty", Ty); v("V", V); v("states", states);
  }
};
void tiles_decode(const TilesDecodeArgs& args);

// table[s] = entries[index[s] & 0xffff], its first component negated where index[s] ≥ 2^16.
struct TilesTableArgs {
  const float* entries;  // [rows, V]
  const int32_t* index;  // [states]
  float* table;          // [states, V]
  int64_t rows, states, V;
  template <class Visitor> void fields(Visitor& v) {
    v("entries", entries); v("index", index); v("table", table); v("rows", rows); v("states", states); v("V", V);
  }
};
void tiles_table(const TilesTableArgs& args);

// The stored form: a tile's states as a circular string of steps·KV bits, state t at bits [t·KV, t·KV + L), most
// significant first in words of 16 bits; zeros fill the last word. unpack reads it back. Fails when codes don't overlap.
struct TilesPackArgs {
  const uint16_t* codes;  // [tiles, steps]
  int16_t* packed;        // [tiles, words]
  int64_t tiles, steps, words, L, KV;
  template <class Visitor> void fields(Visitor& v) {
    v("codes", codes); v("packed", packed); v("tiles", tiles); v("steps", steps); v("words", words); v("L", L); v("KV", KV);
  }
};
void tiles_pack(const TilesPackArgs& args);

struct TilesUnpackArgs {
  const int16_t* packed;
  uint16_t* codes;
  int64_t tiles, steps, words, L, KV;
  template <class Visitor> void fields(Visitor& v) {
    v("packed", packed); v("codes", codes); v("tiles", tiles); v("steps", steps); v("words", words); v("L", L); v("KV", KV);
  }
};
void tiles_unpack(const TilesUnpackArgs& args);

}  // namespace ops
