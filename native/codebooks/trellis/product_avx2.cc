// Products with AVX2: 16 runs at a time, x broadcast in digits of 16 bits. The same whole numbers as with AVX-512.
#include <immintrin.h>

#include <algorithm>

#include "product_code.h"
#include "product_rows.h"
#include "product_unroll.h"

namespace ops::product {
namespace {

using V = __m256i;

inline V words16(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
inline V broadcast(const uint8_t* x) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
inline V load(const uint16_t* words) { return _mm256_loadu_si256(reinterpret_cast<const V*>(words)); }

// Half of a chunk's words, and the first of the next runs.
template <int K, bool TC>
struct Window {
  V word[K + 1];
  Window(const uint16_t* from, int half) {
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

// s·c + d modulo 2^32 in two halves.
struct Halves {
  V low, high;
};
template <uint32_t c, uint32_t d>
inline Halves affine(V s) {
  V low = _mm256_mullo_epi16(s, words16(c)), high = _mm256_add_epi16(_mm256_mulhi_epu16(s, words16(c)), _mm256_mullo_epi16(s, words16(c >> 16)));
  if constexpr (d != 0) {
    low = _mm256_add_epi16(low, words16(d));
    const V no_carry = _mm256_cmpeq_epi16(_mm256_max_epu16(low, words16(d)), low);  // −1 where there is none
    high = _mm256_add_epi16(_mm256_add_epi16(high, words16((d >> 16) + 1)), no_carry);
  }
  return {low, high};
}

// sum += Σ of neighbours' products.
inline void add_products(V& sum, V a, const uint8_t* x) { sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, broadcast(x))); }

// Sums of four bytes, times two digits of 12 bits, or one of 8: the words of both lanes in one.
template <ProductCode code, int digits_>
struct ByteSums {
  static constexpr int states = 16, digits = digits_, x_bytes = 4 * digits, levels = digits;
  static constexpr int64_t factors[2] = {digits == 2 ? 4096 : 1, 1}, until = 32;  // chunks until 32 bits might overflow
  explicit ByteSums(const Job&) {}
  template <int T>
  inline void add(V s, const uint8_t* x, int64_t stride, V (&sum)[T][2]) const {
    constexpr ByteSum to = byte_sum_of(code);
    const Halves product = affine<to.factor, to.addend>(s);
    const V ones = _mm256_set1_epi8(1), bytes = _mm256_add_epi16(_mm256_maddubs_epi16(product.low, ones), _mm256_maddubs_epi16(product.high, ones));
    for (int b = 0; b < T; ++b) {
      for (int d = 0; d < digits; ++d) add_products(sum[b][d], bytes, x + b * stride + 4 * d);
    }
  }
};

// v and its high part h = ⌊(v + up)/256⌋ times three digits of 8 bits: v·(x0·2^8 + x1) + h·x2, in two levels; or v times one digit.
template <int digits, int T>
inline void multiply(V v, int up, const uint8_t* x, int64_t stride, V (&sum)[T][2]) {
  for (int b = 0; b < T; ++b) {
    const uint8_t* const at = x + b * stride;
    add_products(sum[b][0], v, at);
    if constexpr (digits == 3) {
      add_products(sum[b][1], v, at + 4);
      add_products(sum[b][1], _mm256_srai_epi16(_mm256_add_epi16(v, words16(up)), 8), at + 8);
    }
  }
}

// HYB: both signs of 512 pairs of words.
template <int digits_>
struct Pairs {
  static constexpr int states = 8, digits = digits_, x_bytes = 8 * digits, levels = digits == 3 ? 2 : 1;
  static constexpr int64_t factors[2] = {digits == 3 ? 256 : 1, 1}, until = 15;
  const int* table;
  explicit Pairs(const Job& job) : table(reinterpret_cast<const int*>(job.table)) {}
  static void arrange(const int16_t* whole, uint8_t* table) {
    auto* const pairs = reinterpret_cast<int16_t*>(table);
    for (int i = 0; i < 1024; ++i) {
      pairs[i] = whole[i];
      pairs[1024 + i] = static_cast<int16_t>(i % 2 ? whole[i] : -whole[i]);
    }
  }
  template <int T>
  inline void add(V s, const uint8_t* x, int64_t stride, V (&sum)[T][2]) const {
    const V index = _mm256_srli_epi16(_mm256_mullo_epi16(s, _mm256_add_epi16(s, words16(1))), 6);
    const V even = _mm256_i32gather_epi32(table, _mm256_and_si256(index, _mm256_set1_epi32(0xffff)), 4);
    const V odd = _mm256_i32gather_epi32(table, _mm256_srli_epi32(index, 16), 4);
    multiply<digits>(even, 128, x, stride, sum);
    multiply<digits>(odd, 128, x + 4 * digits, stride, sum);
  }
};

// 3INST, mcg: two f16 numbers of exponents −3 … 0 are whole numbers of 2^-13, and their sum has 16 bits.
template <uint32_t c, uint32_t d, int digits_>
struct TwoHalves {
  static constexpr int states = 16, digits = digits_, x_bytes = 4 * digits, levels = digits == 3 ? 2 : 1;
  static constexpr int64_t factors[2] = {digits == 3 ? 256 : 1, 1}, until = 15;
  explicit TwoHalves(const Job&) {}
  static inline V whole(V x) {
    const V f16 = _mm256_xor_si256(_mm256_and_si256(x, words16(0x8fff)), words16(0x3b60));
    const V digits = _mm256_or_si256(_mm256_and_si256(f16, words16(0x3ff)), words16(0x400));
    const V exponent = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(f16, 10), words16(3)), words16(0x8000));  // a high byte of zero
    const V power = _mm256_shuffle_epi8(_mm256_set1_epi32(0x08040201), exponent);
    return _mm256_sign_epi16(_mm256_mullo_epi16(digits, power), _mm256_or_si256(f16, words16(1)));
  }
  template <int T>
  inline void add(V s, const uint8_t* x, int64_t stride, V (&sum)[T][2]) const {
    const Halves product = affine<c, d>(s);
    multiply<digits>(_mm256_add_epi16(whole(product.low), whole(product.high)), 0, x, stride, sum);
  }
};

template <class Code, int K, bool TC, int T>
void rows_of(const Job& job, int64_t (*sums)[32]) {
  constexpr int sets = TC ? 2 : 1, bits = 16 / Code::states * K;
  const Code code(job);
  for (int half = 0; half < 2; ++half) {
    for (int64_t from = 0; from < job.chunks; from += Code::until) {
      V sum[sets][T][2] = {};
      for (int64_t chunk = from; chunk < std::min(job.chunks, from + Code::until); ++chunk) {
        const Window<K, TC> window(job.words + chunk * K * kLanes, half);
        const uint8_t* const x = job.x + chunk * (Code::states / sets * Code::x_bytes);
        unroll<Code::states>([&](auto j) {
          // In tensor-core order weights p with p & 2 are of another row, and those of both read the same x.
          constexpr int p = j * (16 / Code::states), set = TC ? p >> 1 & 1 : 0;
          constexpr int at = !TC ? int{j} : Code::states == 16 ? p / 4 * 2 + p % 2 : p / 4;
          code.template add<T>(window.template state<j * bits>(), x + at * Code::x_bytes, job.stride, sum[set]);
        });
      }
      for (int set = 0; set < sets; ++set) {
        for (int b = 0; b < T; ++b) {
          for (int d = 0; d < Code::levels; ++d) {
            alignas(32) int32_t lanes[8];
            _mm256_store_si256(reinterpret_cast<V*>(lanes), sum[set][b][d]);
            for (int i = 0; i < 8; ++i) sums[b][TC ? half * 16 + set * 8 + i : half * 8 + i] += lanes[i] * Code::factors[d];
          }
        }
      }
    }
  }
}

template <class Code, int K, bool TC>
void rows(const Job& job, int vectors, int64_t (*sums)[32]) {
  if (vectors == 1) return rows_of<Code, K, TC, 1>(job, sums);
  Job rest = job;
  for (int b = 0; b < vectors; b += kTogether, rest.x += kTogether * job.stride) rows_of<Code, K, TC, kTogether>(rest, sums + b);
}

// A word for each digit: of both lanes' weights (V = 1), or of the pair in the even lanes, then of that in the odd ones.
template <class Code>
Kernel kernel(int K, Order order, void (*arrange)(const int16_t*, uint8_t*) = nullptr) {
  constexpr decltype(&rows<Code, 1, false>) list[4][2] = {{rows<Code, 1, false>, rows<Code, 1, true>},
                                                          {rows<Code, 2, false>, rows<Code, 2, true>},
                                                          {rows<Code, 3, false>, rows<Code, 3, true>},
                                                          {rows<Code, 4, false>, rows<Code, 4, true>}};
  constexpr Digits digits[3] = {Digits::one, Digits::halves, Digits::bytes};
  std::vector<Slot> slots;
  for (int p = 0; p < 16; p += 16 / Code::states) {
    if (order.tensor_core && p & 2) continue;
    for (int lane = 0; lane < 16 / Code::states; ++lane) {
      for (int digit = 0; digit < Code::digits; ++digit) {
        for (int i = 0; i < 2; ++i) slots.push_back({Code::states == 8 ? order.column(p + i, lane) : order.column(p, i), digit});
      }
    }
  }
  return {list[K - 1][order.tensor_core], digits[Code::digits - 1], std::move(slots), 2, 0, 0, arrange};
}

}  // namespace

Kernel avx2_kernel(ProductCode code, int K, Order order, bool int8) {
  switch (code) {
    case ProductCode::hyb: return int8 ? kernel<Pairs<1>>(K, order, Pairs<1>::arrange) : kernel<Pairs<3>>(K, order, Pairs<3>::arrange);
    case ProductCode::inst3: return int8 ? kernel<TwoHalves<89226354u, 64248484u, 1>>(K, order) : kernel<TwoHalves<89226354u, 64248484u, 3>>(K, order);
    case ProductCode::mcg: return int8 ? kernel<TwoHalves<0xcbac1fedu, 0, 1>>(K, order) : kernel<TwoHalves<0xcbac1fedu, 0, 3>>(K, order);
    case ProductCode::mul1: return int8 ? kernel<ByteSums<ProductCode::mul1, 1>>(K, order) : kernel<ByteSums<ProductCode::mul1, 2>>(K, order);
    case ProductCode::mad1: return int8 ? kernel<ByteSums<ProductCode::mad1, 1>>(K, order) : kernel<ByteSums<ProductCode::mad1, 2>>(K, order);
  }
  return {};
}

}  // namespace ops::product
