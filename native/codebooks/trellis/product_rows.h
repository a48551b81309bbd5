// defines: what the CPU's kernels of products agree on: the order of packed words, the digits of x, and whole-number sums.
//
// Everything is counted in whole numbers, so every instruction set gives the same bits. x[b, j] is X units of its row, |X| < 2^23; a
// weight is a whole number too: the sum of four bytes, or a value v of 16 bits in units of 2^-13 or so.
//
// A block of rows is a row of chunks, a chunk 512 weights: 16 · K bits of each of 32 runs. A run is 16 weights that follow each other in a
// tile's sequence. In row-major order that is a row of a tile: a chunk is two tiles side by side, lane 2r + 1 row r of the left one and
// lane 2r of the right one. In tensor-core order it is half of two rows: a chunk is two tiles one below the other, lanes 2i + 1 and 2i
// the runs 2(i mod 8) and 2(i mod 8) + 1 of tile i / 8. Words of a chunk: [K][32 lanes], most significant bits first; after a
// run's last word comes the next run's first.
#pragma once
#include <cstdint>

#include "product.h"

namespace ops::product {

constexpr int kLanes = 32, kMostVectors = 16;
constexpr int kTable = 4096;
// Vectors that there are digits of: a kernel takes one, or four or eight of which the last may be nothing.
constexpr int64_t room_for(int64_t vectors) { return vectors == 1 ? 1 : vectors <= 4 ? 4 : (vectors + 7) / 8 * 8; }

struct Order {
  bool tensor_core;
  int rows() const { return tensor_core ? 32 : 16; }     // of a block
  int columns() const { return tensor_core ? 16 : 32; }  // of a chunk
  // Column in the chunk of weight p of a run in lanes of this parity. Rows of weights p: in tensor-core order those with p & 2 are 8 further down.
  int column(int p, int odd) const {
    if (!tensor_core) return (odd ? 0 : 16) + p;
    return (p & 4) << 1 | (odd ? 0 : 4) | p >> 3 << 1 | (p & 1);
  }
};

// A digit of x at a column of the chunk; a kernel reads those of a chunk in an order of its own, one or two bytes each.
struct Slot {
  int column, digit;
};
// In place, not a std::vector: an instruction set's file must not make inline functions that others might be linked to.
struct Slots {
  Slot at[128];
  int count = 0;
  void add(Slot slot) { at[count++] = slot; }
};
enum class Digits {
  bytes,   // X = x0·2^16 + x1·2^8 + x2, from −128 to 127
  halves,  // X = x0·2^12 + x1, from −2048 to 2047
  one,     // |X| ≤ 127
};

struct Job {
  int64_t chunks;
  const uint16_t* words;  // of the block
  const uint8_t* table;   // hyb: kTable bytes in the kernel's order
  const uint8_t* x;       // [room_for(vectors)][chunks][slots]
  int64_t stride;         // bytes from one vector to the next
};

// Adds to sums[vector][row of the block]: v·X, or the byte sum·X; for hyb in f32 h·X + l·(X − x2)/256 where v = 256·h + l, each plus its bias.
struct Kernel {
  void (*rows)(const Job& job, int vectors, int64_t (*sums)[32]) = nullptr;
  Digits digits = Digits::bytes;
  Slots slots;
  int slot_bytes = 1;
  int high_bias = 0, low_bias = 0;
  // hyb's pairs in units [512][2], the first of which are negated: h·256 + l with l from −127 to 127.
  void (*arrange_table)(const int16_t* whole, uint8_t* table) = nullptr;
};

Kernel avx2_kernel(ProductCode code, int K, Order order, bool int8);
// For machines that have AVX-512 with VBMI, VBMI2 and VNNI.
Kernel avx512_kernel(ProductCode code, int K, Order order, bool int8, int64_t vectors);

}  // namespace ops::product
