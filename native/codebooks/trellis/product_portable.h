// defines: the portable Lanes of product_words.h, in the compiler's own vector types: 8 runs at a time, on any machine.
#pragma once
#include <cstring>

#include "product_words.h"

namespace ops::product {
namespace {

struct PortableLanes {
  typedef int32_t V __attribute__((vector_size(16)));
  typedef uint32_t Unsigned __attribute__((vector_size(16)));
  typedef int16_t Short __attribute__((vector_size(16)));
  typedef uint16_t Word __attribute__((vector_size(16)));
  static constexpr int parts = 4, most_sums = 4, chains = 1, words = kLanes / parts;
  static constexpr bool unrolled = false;

  // A fourth of a chunk's words, and the first of the next runs.
  template <int K, bool TC>
  struct Window {
    Word word[K + 1];
    Window(const uint16_t* from, int part) {
      for (int q = 0; q < K; ++q) std::memcpy(&word[q], from + q * kLanes + part * words, sizeof word[q]);
      constexpr int around = TC ? 16 : kLanes;  // lanes of a tile, or of both
      const int first = part * words, ahead = first / around * around + (first + words) % around;
      std::memcpy(&word[K], from + first + 2, 12), std::memcpy(reinterpret_cast<char*>(&word[K]) + 12, from + ahead, 4);
      if constexpr (TC) word[K] = Word(Unsigned(word[0]) << 16 | Unsigned(word[K]) >> 16);
    }
    V state(int at) const { return V(word[at / 16] << at % 16 | word[at / 16 + 1] >> 1 >> (15 - at % 16)); }
  };

  static V low_words(V s) { return s & 0xffff; }
  static V high_words(V s) { return V(Unsigned(s) >> 16); }
  static V narrow(V a, V b) { return (a & 0xffff) | b << 16; }
  template <uint32_t c, uint32_t d>
  static V affine(V s) { return V(Unsigned(s) * c + d); }
  template <ProductCode code>
  static V byte_sums(V s) {
    const auto sum = [](V states) {
      const Unsigned x = Unsigned(affine<hash_of(code).factor, hash_of(code).addend>(states)), pairs = (x & 0xff00ff) + (x >> 8 & 0xff00ff);
      return V(pairs + (pairs >> 16));
    };
    return narrow(sum(low_words(s)), sum(high_words(s)));
  }
  static V f16_sum(V x) {
    const Short digits = Short((x & 0x3ff03ff) ^ 0x7600760), exponent = Short(Word(x) >> 10), sign = Short(x) >> 15;
    const Short power = ((exponent & 1) + 1) * (4 - 3 * (exponent >> 1 & 1)), product = ((digits * power) ^ sign) - sign;
    return (V(product) << 16 >> 16) + (V(product) >> 16);
  }
  static void pairs(const int32_t* table, V s, V& even, V& odd) {
    const Word at = (Word(s) * (Word(s) + 1)) >> 6;
    even = V{table[at[0]], table[at[2]], table[at[4]], table[at[6]]}, odd = V{table[at[1]], table[at[3]], table[at[5]], table[at[7]]};
  }
  static V high_bytes(V v) { return V((Short(v) + 128) >> 8); }
  static V dot(V sum, V v, const uint8_t* x) {
    int16_t factor[2];
    std::memcpy(factor, x, sizeof factor);
    return sum + (v << 16 >> 16) * factor[0] + (v >> 16) * factor[1];
  }
  static void carry(V& low, V& carried) { carried += low >> 16, low &= 0xffff; }
  static void store(int32_t* to, V v) { std::memcpy(to, &v, sizeof v); }
};

}  // namespace
}  // namespace ops::product
