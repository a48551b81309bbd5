// Products with AVX2: 16 runs at a time, x broadcast in digits of 16 bits. The same whole numbers as with AVX-512.
#include <immintrin.h>

#include "product_words.h"

namespace ops::product {
namespace {

using V = __m256i;

inline V words16(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
inline V broadcast(const uint8_t* x) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
inline V load(const uint16_t* words) { return _mm256_loadu_si256(reinterpret_cast<const V*>(words)); }

// Half of a chunk's words, and the first of the next runs.
template <int K, bool TC>
struct HalfWindow {
  V word[K + 1];
  HalfWindow(const uint16_t* from, int half) {
    for (int q = 0; q < K; ++q) word[q] = load(from + q * kLanes + half * 16);
    V ahead = _mm256_permutevar8x32_epi32(word[0], _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0));
    if constexpr (TC) {
      word[K] = _mm256_or_si256(_mm256_slli_epi32(word[0], 16), _mm256_srli_epi32(ahead, 16));
    } else {
      const V other = broadcast(reinterpret_cast<const uint8_t*>(from + (1 - half) * 16));
      word[K] = _mm256_blend_epi32(ahead, other, 0x80);
    }
  }
  template <int at>
  V state() const {
    if constexpr (at % 16 == 0) return word[at / 16];
    else return _mm256_or_si256(_mm256_slli_epi16(word[at / 16], at % 16), _mm256_srli_epi16(word[at / 16 + 1], 16 - at % 16));
  }
};

struct Lanes {
  using V = __m256i;
  static constexpr int parts = 2, most_sums = 8, chains = 1;
  static constexpr bool unrolled = true;
  template <int K, bool TC>
  using Window = HalfWindow<K, TC>;

  static V low_words(V s) { return _mm256_unpacklo_epi16(s, _mm256_setzero_si256()); }
  static V high_words(V s) { return _mm256_unpackhi_epi16(s, _mm256_setzero_si256()); }
  static V narrow(V a, V b) { return _mm256_packs_epi32(a, b); }
  template <uint32_t c, uint32_t d>
  static V affine(V s) {
    const V product = _mm256_mullo_epi32(s, _mm256_set1_epi32(static_cast<int>(c)));
    return d == 0 ? product : _mm256_add_epi32(product, _mm256_set1_epi32(static_cast<int>(d)));
  }
  // s·c + d in two halves of 16 bits.
  template <ProductCode code>
  static V byte_sums(V s) {
    constexpr auto c = hash_of(code).factor, d = hash_of(code).addend;
    V low = _mm256_mullo_epi16(s, words16(c)), high = _mm256_add_epi16(_mm256_mulhi_epu16(s, words16(c)), _mm256_mullo_epi16(s, words16(c >> 16)));
    if constexpr (d != 0) {
      low = _mm256_add_epi16(low, words16(d));
      const V no_carry = _mm256_cmpeq_epi16(_mm256_max_epu16(low, words16(d)), low);  // −1 where there is none
      high = _mm256_add_epi16(_mm256_add_epi16(high, words16((d >> 16) + 1)), no_carry);
    }
    const V ones = _mm256_set1_epi8(1);
    return _mm256_add_epi16(_mm256_maddubs_epi16(low, ones), _mm256_maddubs_epi16(high, ones));
  }
  static V f16_sum(V x) {
    const V digits = _mm256_xor_si256(_mm256_and_si256(x, words16(0x3ff)), words16(0x760));
    const V exponent = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(x, 10), words16(3)), words16(0x8000));  // a high byte of zero
    const V power = _mm256_shuffle_epi8(_mm256_set1_epi32(0x02010804), exponent);
    return _mm256_madd_epi16(_mm256_sign_epi16(digits, _mm256_or_si256(x, words16(1))), power);
  }
  static void pairs(const int32_t* table, V s, V& even, V& odd) {
    const V index = _mm256_srli_epi16(_mm256_mullo_epi16(s, _mm256_add_epi16(s, words16(1))), 6);
    even = _mm256_i32gather_epi32(table, _mm256_and_si256(index, _mm256_set1_epi32(0xffff)), 4);
    odd = _mm256_i32gather_epi32(table, _mm256_srli_epi32(index, 16), 4);
  }
  static V high_bytes(V v) { return _mm256_srai_epi16(_mm256_add_epi16(v, words16(128)), 8); }
  static V dot(V sum, V v, const uint8_t* x) { return _mm256_add_epi32(sum, _mm256_madd_epi16(v, broadcast(x))); }
  static void carry(V& low, V& carried) {
    carried = _mm256_add_epi32(carried, _mm256_srai_epi32(low, 16));
    low = _mm256_and_si256(low, _mm256_set1_epi32(0xffff));
  }
  static void store(int32_t* to, V v) { _mm256_store_si256(reinterpret_cast<V*>(to), v); }
};

}  // namespace

Kernel avx2_kernel(ProductCode code, int K, Order order, bool int8) { return kernel_of<Lanes>(code, K, order, int8); }

}  // namespace ops::product
