// Products with AVX-512 (VBMI, VBMI2, VNNI): 32 runs in the lanes, so that x is broadcast.
#include <immintrin.h>

#include <algorithm>

#include "product_code.h"
#include "product_rows.h"
#include "product_unroll.h"

namespace ops::product {
namespace {

using V = __m512i;

constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of the forms without a mask

inline V words16(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
inline V broadcast(const uint8_t* x) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
// Bits of a where m has ones, else of b.
inline V select(V m, V a, V b) { return _mm512_ternarylogic_epi32(m, a, b, 0xca); }

// The words of a chunk, and the first of the next runs.
template <int K, bool TC>
struct Window {
  V word[K + 1];
  explicit Window(const uint16_t* from) {
    for (int q = 0; q < K; ++q) word[q] = _mm512_loadu_si512(from + q * kLanes);
    if constexpr (TC) {
      const V ahead = _mm512_maskz_permutexvar_epi32(kAll, _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 11, 12, 13, 14, 15, 8), word[0]);
      word[K] = _mm512_shldi_epi32(word[0], ahead, 16);
    } else {
      word[K] = _mm512_maskz_alignr_epi32(kAll, word[0], word[0], 1);
    }
  }
  template <int at>
  V state() const {
    if constexpr (at % 16 == 0) return word[at / 16];
    else return _mm512_shldi_epi16(word[at / 16], word[at / 16 + 1], at % 16);
  }
};

// sums[row] += a · factor, rows of accumulator `set` of a block.
template <bool TC>
void flush(V& a, int set, int64_t factor, int64_t* sums) {
  alignas(64) int32_t lanes[16];
  _mm512_store_si512(lanes, a);
  for (int i = 0; i < 16; ++i) sums[TC ? i / 8 * 16 + set * 8 + i % 8 : i] += lanes[i] * factor;
  a = _mm512_setzero_si512();
}

// s·c + d modulo 2^32 in two halves.
struct Halves {
  V low, high;
};
template <uint32_t c, uint32_t d>
inline Halves affine(V s) {
  V low = _mm512_mullo_epi16(s, words16(c)), high = _mm512_add_epi16(_mm512_mulhi_epu16(s, words16(c)), _mm512_mullo_epi16(s, words16(c >> 16)));
  if constexpr (d != 0) {
    low = _mm512_add_epi16(low, words16(d));
    const __mmask32 carry = _mm512_cmplt_epu16_mask(low, words16(d));
    high = _mm512_add_epi16(high, words16(d >> 16));
    high = _mm512_mask_sub_epi16(high, carry, high, words16(-1));
  }
  return {low, high};
}

// ── sums of bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────

// s·c + d of the states in the even lanes and in the odd ones, 32 bits each; then two digits of 12 bits a weight beside each other, or one of 8.
template <ProductCode code, int K, bool TC, bool int8, int T>
void byte_sums(const Job& job, int64_t (*sums)[32]) {
  constexpr ByteSum to = byte_sum_of(code);
  constexpr int sets = TC ? 2 : 1, digits = 2, x_bytes = 16 / sets * 8;
  constexpr int64_t until = 32;  // chunks until 32 bits might overflow
  const V factor = _mm512_set1_epi32(static_cast<int>(to.factor)), addend = _mm512_set1_epi32(to.addend), odd = _mm512_set1_epi32(-65536);
  for (int64_t from = 0; from < job.chunks; from += until) {
    V sum[T][sets][digits] = {};
    for (int64_t chunk = from; chunk < std::min(job.chunks, from + until); ++chunk) {
      const Window<K, TC> window(job.words + chunk * K * kLanes);
      const uint8_t* const x = job.x + chunk * x_bytes;
      unroll<16>([&](auto j) __attribute__((always_inline)) {
        constexpr int set = TC ? (j >> 1) & 1 : 0, at = TC ? (j >> 2) * 2 + (j & 1) : j;
        const V s = window.template state<j * K>();
        V product[2] = {_mm512_mullo_epi32(_mm512_maskz_andnot_epi32(kAll, odd, s), factor), _mm512_mullo_epi32(_mm512_maskz_srli_epi32(kAll, s, 16), factor)};
        if constexpr (to.addend != 0) {
          for (V& p : product) p = _mm512_add_epi32(p, addend);
        }
        if constexpr (int8) {
          for (int b = 0; b < T; ++b) {
            for (int d = 0; d < 2; ++d) sum[b][set][d] = _mm512_dpbusd_epi32(sum[b][set][d], product[d], broadcast(x + b * job.stride + at * 8 + d * 4));
          }
        } else {
          // The sum of each lane's four bytes, in both halves of it.
          for (V& p : product) p = _mm512_dbsad_epu8(p, _mm512_setzero_si512(), 0);
          const V bytes = select(odd, product[1], product[0]);
          for (int b = 0; b < T; ++b) {
            for (int d = 0; d < 2; ++d) sum[b][set][d] = _mm512_dpwssd_epi32(sum[b][set][d], bytes, broadcast(x + b * job.stride + at * 8 + d * 4));
          }
        }
      });
    }
    for (int b = 0; b < T; ++b) {
      for (int set = 0; set < sets; ++set) {
        for (int d = 0; d < digits; ++d) flush<TC>(sum[b][set][d], set, int8 || d == 1 ? 1 : 4096, sums[b]);
      }
    }
  }
}

// ── values of 16 bits ─────────────────────────────────────────────────────────────────────────────────────────────────

// High and low bytes of two states' words, theirs beside each other: bytes 3 and 1 of a lane pair are those of a, 2 and 0 those of b.
inline Halves planes(V a, V b) {
  const V high = words16(0xff00);
  return {select(high, _mm512_slli_epi16(a, 8), b), select(high, a, _mm512_srli_epi16(b, 8))};
}

// (256·high + low) · X in three levels, of 2^16, 2^8 and 1 · 256: without low times the last digit.
template <int T>
[[gnu::always_inline]] inline void multiply(const Halves& plane, const uint8_t* x, int64_t stride, V (&sum)[T][3]) {
  for (int b = 0; b < T; ++b) {
    const V x0 = broadcast(x + b * stride), x1 = broadcast(x + b * stride + 4), x2 = broadcast(x + b * stride + 8);
    sum[b][0] = _mm512_dpbusd_epi32(sum[b][0], plane.high, x0);
    sum[b][1] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum[b][1], plane.high, x1), plane.low, x0);
    sum[b][2] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum[b][2], plane.high, x2), plane.low, x1);
  }
}

// HYB: 512 pairs in the registers' bytes: [component][high, low][two bits of the row][halves of the other seven].
struct Pairs {
  static constexpr int per_state = 2;
  V table[2][2][4][2];
  explicit Pairs(const Job& job) {
    for (int i = 0; i < 32; ++i) table[i / 16][i / 8 % 2][i / 2 % 4][i % 2] = _mm512_loadu_si512(job.table + 64 * i);
  }
  static void arrange(const int16_t* whole, uint8_t* table) {
    for (int i = 0; i < 1024; ++i) {
      const int row = i / 2, v = whole[i] + 0x8080;
      uint8_t* const high = table + i % 2 * 1024 + (row & 3) * 128 + (row >> 2);
      high[0] = static_cast<uint8_t>(v >> 8), high[512] = static_cast<uint8_t>(v);
    }
  }
  template <int T>
  [[gnu::always_inline]] inline void pair(V a, V b, const uint8_t* x, int64_t stride, V (&sum)[T][3]) const {
    const V one = words16(-1);
    const Halves u = planes(_mm512_mullo_epi16(a, _mm512_sub_epi16(a, one)), _mm512_mullo_epi16(b, _mm512_sub_epi16(b, one)));
    const __mmask64 sign = _mm512_movepi8_mask(u.high), high = _mm512_movepi8_mask(u.low), low = _mm512_movepi8_mask(_mm512_add_epi8(u.low, u.low));
    const __mmask64 not_low = _knot_mask64(low);
    // Where the mask is zero the index stays, for the next table: one blend in place of three.
    const auto plane = [&](int c, int p) __attribute__((always_inline)) {
      V found[2];
      for (int q = 0; q < 2; ++q) {
        const V(&even)[2] = table[c][p][2 * q], (&odd)[2] = table[c][p][2 * q + 1];
        found[q] = _mm512_mask2_permutex2var_epi8(odd[0], _mm512_mask2_permutex2var_epi8(even[0], u.high, not_low, even[1]), low, odd[1]);
      }
      return _mm512_mask_blend_epi8(high, found[0], found[1]);
    };
    const auto negate = [&](V digits) { return _mm512_mask_sub_epi8(digits, sign, _mm512_setzero_si512(), digits); };
    multiply<T>({negate(plane(0, 1)), negate(plane(0, 0))}, x, stride, sum);
    multiply<T>({plane(1, 1), plane(1, 0)}, x + 12, stride, sum);
  }
};

// 3INST, mcg: two f16 numbers of exponents −3 … 0 are whole numbers of 2^-13, and their sum has 16 bits.
template <uint32_t c, uint32_t d>
struct TwoHalves {
  static constexpr int per_state = 1;
  explicit TwoHalves(const Job&) {}
  static inline V whole(V x) {
    const V f16 = _mm512_ternarylogic_epi32(x, words16(0x8fff), words16(0x3b60), 0x6a);  // (x & …) ^ …
    const V digits = _mm512_ternarylogic_epi32(f16, words16(0x3ff), words16(0x400), 0xea);  // (f16 & …) | …
    const V v = _mm512_sllv_epi16(digits, _mm512_and_si512(_mm512_srli_epi16(f16, 10), words16(3)));
    return _mm512_mask_sub_epi16(v, _mm512_movepi16_mask(f16), _mm512_setzero_si512(), v);
  }
  static inline V value(V s) {
    const Halves product = affine<c, d>(s);
    return _mm512_xor_si512(_mm512_add_epi16(whole(product.low), whole(product.high)), words16(0x8000));
  }
  template <int T>
  [[gnu::always_inline]] inline void pair(V a, V b, const uint8_t* x, int64_t stride, V (&sum)[T][3]) const {
    multiply<T>(planes(value(a), value(b)), x, stride, sum);
  }
};

// Which states of a run are multiplied side by side: those of one row, two by two.
template <bool TC, int per_state>
constexpr int first_of(int g) { return TC && per_state == 2 ? g / 2 * 4 + g % 2 : 2 * g; }
template <bool TC, int per_state>
constexpr int second_of(int g) { return first_of<TC, per_state>(g) + (TC && per_state == 2 ? 2 : 1); }

template <class Code, int K, bool TC, int T>
void values(const Job& job, int64_t (*sums)[32]) {
  constexpr int per_state = Code::per_state, bits = K * per_state, sets = TC ? 2 : 1, groups = 8 / per_state;
  constexpr int group_bytes = per_state * 12, x_bytes = groups / sets * group_bytes;
  constexpr int64_t until = 1024;  // chunks until 32 bits might overflow
  const Code code(job);
  for (int64_t from = 0; from < job.chunks; from += until) {
    V sum[sets][T][3] = {};
    for (int64_t chunk = from; chunk < std::min(job.chunks, from + until); ++chunk) {
      const Window<K, TC> window(job.words + chunk * K * kLanes);
      const uint8_t* const x = job.x + chunk * x_bytes;
      unroll<groups>([&](auto g) {
        code.template pair<T>(window.template state<first_of<TC, per_state>(g) * bits>(), window.template state<second_of<TC, per_state>(g) * bits>(),
                              x + g / sets * group_bytes, job.stride, sum[g % sets]);
      });
    }
    for (int set = 0; set < sets; ++set) {
      for (int b = 0; b < T; ++b) {
        for (int level = 0; level < 3; ++level) flush<TC>(sum[set][b][level], set, int64_t{1} << (16 - 8 * level), sums[b]);
      }
    }
  }
}

// ── which kernel ──────────────────────────────────────────────────────────────────────────────────────────────────────

template <ProductCode code, int K, bool TC, bool int8, int T>
void rows_of(const Job& job, int64_t (*sums)[32]) {
  if constexpr (code == ProductCode::mul1 || code == ProductCode::mad1) byte_sums<code, K, TC, int8, T>(job, sums);
  else if constexpr (code == ProductCode::hyb) values<Pairs, K, TC, T>(job, sums);
  else if constexpr (code == ProductCode::inst3) values<TwoHalves<89226354u, 64248484u>, K, TC, T>(job, sums);
  else values<TwoHalves<0xcbac1fedu, 0>, K, TC, T>(job, sums);
}

// One vector, or four at a time of which the last may not be there.
template <ProductCode code, int K, bool TC, bool int8>
void rows(const Job& job, int vectors, int64_t (*sums)[32]) {
  if (vectors == 1) return rows_of<code, K, TC, int8, 1>(job, sums);
  Job rest = job;
  for (int b = 0; b < vectors; b += kTogether, rest.x += kTogether * job.stride) rows_of<code, K, TC, int8, kTogether>(rest, sums + b);
}

template <ProductCode code, bool int8>
auto find_rows(int K, bool TC) {
  constexpr decltype(&rows<code, 1, false, int8>) list[4][2] = {{rows<code, 1, false, int8>, rows<code, 1, true, int8>},
                                                                {rows<code, 2, false, int8>, rows<code, 2, true, int8>},
                                                                {rows<code, 3, false, int8>, rows<code, 3, true, int8>},
                                                                {rows<code, 4, false, int8>, rows<code, 4, true, int8>}};
  return list[K - 1][TC];
}

// A word for each weight of a run: in int8 four times its digit in the even lanes, then in the odd ones; else both lanes' digits.
std::vector<Slot> byte_sum_slots(Order order, bool int8) {
  std::vector<Slot> slots;
  for (int p = 0; p < 16; ++p) {
    if (order.tensor_core && p & 2) continue;
    for (int word = 0; word < 2; ++word) {
      for (int i = 0; i < (int8 ? 4 : 2); ++i) slots.push_back({order.column(p, int8 ? word : i), int8 ? 0 : word});
    }
  }
  return slots;
}

template <int per_state>
std::vector<Slot> value_slots(Order order) {
  std::vector<Slot> slots;
  for (int g = 0; g < 8 / per_state; ++g) {
    if (order.tensor_core && g % 2) continue;
    const int states[2] = {order.tensor_core ? second_of<true, per_state>(g) : second_of<false, per_state>(g),
                           order.tensor_core ? first_of<true, per_state>(g) : first_of<false, per_state>(g)};
    for (int c = 0; c < per_state; ++c) {
      for (int digit = 0; digit < 3; ++digit) {
        for (int i = 0; i < 4; ++i) slots.push_back({order.column(states[i % 2] * per_state + c, i / 2), digit});
      }
    }
  }
  return slots;
}

template <ProductCode code>
Kernel byte_sum_kernel(int K, Order order, bool int8) {
  return int8 ? Kernel{find_rows<code, true>(K, order.tensor_core), Digits::one, byte_sum_slots(order, true), 1}
              : Kernel{find_rows<code, false>(K, order.tensor_core), Digits::halves, byte_sum_slots(order, false), 2};
}

}  // namespace

Kernel avx512_kernel(ProductCode code, int K, Order order, bool int8) {
  const bool TC = order.tensor_core;
  switch (code) {
    case ProductCode::hyb: return {find_rows<ProductCode::hyb, false>(K, TC), Digits::bytes, value_slots<2>(order), 1, 128, 128, Pairs::arrange};
    case ProductCode::inst3: return {find_rows<ProductCode::inst3, false>(K, TC), Digits::bytes, value_slots<1>(order), 1, 128, 0};
    case ProductCode::mcg: return {find_rows<ProductCode::mcg, false>(K, TC), Digits::bytes, value_slots<1>(order), 1, 128, 0};
    case ProductCode::mul1: return byte_sum_kernel<ProductCode::mul1>(K, order, int8);
    case ProductCode::mad1: return byte_sum_kernel<ProductCode::mad1>(K, order, int8);
  }
  return {};
}

}  // namespace ops::product
