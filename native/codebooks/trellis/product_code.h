// defines: what a state is worth and where it lies, for product_*: the same code on every backend (constexpr).
#pragma once
#include <cstdint>

#include "../../core/half.h"
#include "product.h"

namespace ops::product {

// The two weights of hyb's state, or the one (first) of the others.
struct Weights {
  float first, second;
};

constexpr float halves(uint32_t x) {
  const uint32_t r = (x & 0x8fff8fff) ^ 0x3b603b60;
  return f16_to_f32(static_cast<uint16_t>(r >> 16)) + f16_to_f32(static_cast<uint16_t>(r));
}

// What computed codes make 32 bits of a state with: s·factor + addend.
struct Affine {
  uint32_t factor, addend;
};
constexpr Affine hash_of(ProductCode code) {
  switch (code) {
    case ProductCode::mad1: return {34038481, 76625530};
    case ProductCode::inst3: return {89226354, 64248484};
    case ProductCode::mul1: return {0x83dcd12d, 0};
    case ProductCode::mcg: return {0xcbac1fed, 0};
    default: return {};
  }
}

constexpr int byte_sum(uint32_t x) { return static_cast<int>((x & 0xff) + (x >> 8 & 0xff) + (x >> 16 & 0xff) + (x >> 24)); }

// A code of byte sums has the value (sum − 510)·gain + offset: codes.ts says how.
struct ByteSum {
  uint32_t factor, addend;
  double gain, offset;
};
constexpr ByteSum byte_sum_of(ProductCode code) {
  constexpr double a = 1774.0 / (1 << 18), b = -1329.0 / 128;  // f16 0x1eee, 0xc931
  const auto [factor, addend] = hash_of(code);
  return code == ProductCode::mul1 ? ByteSum{factor, addend, a, (1024 + 510) * a + b} : ByteSum{factor, addend, 1 / 147.800537109375, 0};
}

constexpr Weights value(ProductCode code, uint32_t s, const uint16_t* entries) {
  switch (code) {
    case ProductCode::hyb: {
      const uint32_t u = s * (s + 1), row = u >> 6 & 511;
      return {f16_to_f32(static_cast<uint16_t>(entries[2 * row] ^ (u & 0x8000))), f16_to_f32(entries[2 * row + 1])};
    }
    case ProductCode::inst3:
    case ProductCode::mcg: return {halves(s * hash_of(code).factor + hash_of(code).addend), 0};
    default: {
      const ByteSum sum = byte_sum_of(code);
      return {static_cast<float>((byte_sum(s * sum.factor + sum.addend) - 510) * sum.gain + sum.offset), 0};
    }
  }
}

// Place in a tile's sequence of the weight at this row and column.
constexpr int place(int row, int column, bool tensor_core) {
  if (!tensor_core) return row * 16 + column;
  return (row & 7) << 5 | (column >> 1 & 3) << 3 | column >> 3 << 2 | row >> 3 << 1 | (column & 1);
}

// The state that begins `at` bits into a tile of 16·K words, as stored.
constexpr uint32_t state_at(const int16_t* words, int at, int K) {
  const int w = at / 16, next = w + 1 == 16 * K ? 0 : w + 1;
  const uint32_t both = static_cast<uint32_t>(static_cast<uint16_t>(words[w])) << 16 | static_cast<uint16_t>(words[next]);
  return both >> (16 - at % 16) & 0xffff;
}

}  // namespace ops::product
