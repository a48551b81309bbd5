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
    const V carry = _mm512_min_epu16(_mm512_subs_epu16(words16(d), low), words16(1));  // no mask: those take two of the pipes
    high = _mm512_add_epi16(_mm512_add_epi16(high, words16(d >> 16)), carry);
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

// HYB: 512 pairs in the registers' bytes: [component][high, low; in int8 one][two bits of the row][halves of the other seven].
template <bool int8>
struct Pairs {
  static constexpr int planes_each = int8 ? 1 : 2;
  V table[2][planes_each][4][2];
  explicit Pairs(const Job& job) {
    for (int i = 0; i < 16 * planes_each; ++i) table[i / (8 * planes_each)][i / 8 % planes_each][i / 2 % 4][i % 2] = _mm512_loadu_si512(job.table + 64 * i);
  }
  static void arrange(const int16_t* whole, uint8_t* table) {
    for (int i = 0; i < 1024; ++i) {
      const int row = i / 2, v = whole[i] + (int8 ? 0x80 : 0x8080);
      uint8_t* const first = table + i % 2 * 512 * planes_each + (row & 3) * 128 + (row >> 2);
      first[0] = static_cast<uint8_t>(int8 ? v : v >> 8);
      if (!int8) first[512] = static_cast<uint8_t>(v);
    }
  }
  // What a plane is looked up by, for 64 states: seven bits of the row, and masks of the other two.
  struct Index {
    V row;
    __mmask64 high, low, not_low;
    Index(V a, V b) {
      const V one = words16(-1);
      const Halves u = planes(_mm512_mullo_epi16(a, _mm512_sub_epi16(a, one)), _mm512_mullo_epi16(b, _mm512_sub_epi16(b, one)));
      row = u.high, high = _mm512_movepi8_mask(u.low), low = _mm512_movepi8_mask(_mm512_add_epi8(u.low, u.low)), not_low = _knot_mask64(low);
    }
  };
  // Where the mask is zero the index stays, for the next table: one blend in place of three.
  template <int c, int p>
  [[gnu::always_inline]] inline void plane(const Index (&at)[2], V (&out)[2]) const {
    V found[2][2];
    for (int q = 0; q < 2; ++q) {
      const V(&even)[2] = table[c][p][2 * q], (&odd)[2] = table[c][p][2 * q + 1];
      for (int i = 0; i < 2; ++i) found[i][q] = _mm512_mask2_permutex2var_epi8(even[0], at[i].row, at[i].not_low, even[1]);
      for (int i = 0; i < 2; ++i) found[i][q] = _mm512_mask2_permutex2var_epi8(odd[0], found[i][q], at[i].low, odd[1]);
    }
    for (int i = 0; i < 2; ++i) out[i] = _mm512_mask_blend_epi8(at[i].high, found[i][0], found[i][1]);
  }
  // Component c of 64 states twice: its planes.
  template <int c>
  [[gnu::always_inline]] inline void component(const Index (&at)[2], V (&out)[planes_each][2]) const {
    unroll<planes_each>([&](auto p) __attribute__((always_inline)) { plane<c, p>(at, out[p]); });
    for (int i = 0; i < 2 && c == 0; ++i) {
      const __mmask64 sign = _mm512_movepi8_mask(at[i].row);
      for (auto& digits : out) digits[i] = _mm512_mask_sub_epi8(digits[i], sign, _mm512_setzero_si512(), digits[i]);
    }
  }
};

// Which states of a run are multiplied side by side: those of one row, two by two.
template <bool TC>
constexpr int first_of(int g) { return TC ? g / 2 * 4 + g % 2 : 2 * g; }
template <bool TC>
constexpr int second_of(int g) { return first_of<TC>(g) + (TC ? 2 : 1); }

template <int K, bool TC, bool int8, int T>
void pair_sums(const Job& job, int64_t (*sums)[32]) {
  constexpr int bits = 2 * K, sets = TC ? 2 : 1, groups = 4, levels = int8 ? 1 : 3, component_bytes = 4 * levels, group_bytes = 2 * component_bytes;
  constexpr int64_t until = 1024;  // chunks until 32 bits might overflow
  const Pairs<int8> pairs(job);
  for (int64_t from = 0; from < job.chunks; from += until) {
    V sum[sets][T][levels] = {};
    for (int64_t chunk = from; chunk < std::min(job.chunks, from + until); ++chunk) {
      const Window<K, TC> window(job.words + chunk * K * kLanes);
      const uint8_t* const x = job.x + chunk * (groups / sets * group_bytes);
      unroll<groups / 2>([&](auto i) __attribute__((always_inline)) {
        constexpr int g = 2 * i;
        using Index = typename Pairs<int8>::Index;
        const Index at[2] = {{window.template state<first_of<TC>(g) * bits>(), window.template state<second_of<TC>(g) * bits>()},
                             {window.template state<first_of<TC>(g + 1) * bits>(), window.template state<second_of<TC>(g + 1) * bits>()}};
        unroll<2>([&](auto c) __attribute__((always_inline)) {
          V planes[Pairs<int8>::planes_each][2];
          pairs.template component<c>(at, planes);
          for (int j = 0; j < 2; ++j) {
            V(&into)[T][levels] = sum[j % sets];
            const uint8_t* const digits = x + (g + j) / sets * group_bytes + component_bytes * c;
            if constexpr (int8) {
              for (int b = 0; b < T; ++b) into[b][0] = _mm512_dpbusd_epi32(into[b][0], planes[0][j], broadcast(digits + b * job.stride));
            } else {
              multiply<T>({planes[1][j], planes[0][j]}, digits, job.stride, into);
            }
          }
        });
      });
    }
    for (int set = 0; set < sets; ++set) {
      for (int b = 0; b < T; ++b) {
        for (int level = 0; level < levels; ++level) flush<TC>(sum[set][b][level], set, int64_t{1} << 8 * (levels - 1 - level), sums[b]);
      }
    }
  }
}

// ── sums of two f16 ───────────────────────────────────────────────────────────────────────────────────────────────────

// 3INST, mcg: two f16 numbers of exponents −3 … 0 are whole numbers of 2^-13, and their sum v has 16 bits.
struct TwoHalves {
  V power[2];  // ±2^e by the six highest bits of a half, of which three say nothing
  TwoHalves() {
    alignas(64) int16_t by_bits[64];
    for (int i = 0; i < 64; ++i) by_bits[i] = static_cast<int16_t>((i & 32 ? -1 : 1) * (1 << ((i & 3) ^ 2)));
    for (int i = 0; i < 2; ++i) power[i] = _mm512_load_si512(by_bits + 32 * i);
  }
  V whole(V x) const {
    const V digits = _mm512_ternarylogic_epi32(x, words16(0x3ff), words16(0x760), 0x6a);  // (x & …) ^ …
    return _mm512_mullo_epi16(digits, _mm512_permutex2var_epi16(power[0], _mm512_srli_epi16(x, 10), power[1]));
  }
  template <ProductCode code>
  V value(V s) const {
    const Halves product = code == ProductCode::mcg ? affine<0xcbac1fedu, 0>(s) : affine<89226354u, 64248484u>(s);
    return _mm512_add_epi16(whole(product.low), whole(product.high));
  }
};

// v and its high byte h times three digits of 8 bits: v·(x0·2^8 + x1) + h·x2, in two levels, of 2^8 and 1; or v times one digit.
template <ProductCode code, int K, bool TC, bool int8, int T>
void half_sums(const Job& job, int64_t (*sums)[32]) {
  constexpr int sets = TC ? 2 : 1, weight_bytes = int8 ? 4 : 12, levels = int8 ? 1 : 2;
  constexpr int64_t until = 15;  // chunks until 32 bits might overflow
  const TwoHalves halves;
  for (int64_t from = 0; from < job.chunks; from += until) {
    V sum[T][sets][levels] = {};
    for (int64_t chunk = from; chunk < std::min(job.chunks, from + until); ++chunk) {
      const Window<K, TC> window(job.words + chunk * K * kLanes);
      const uint8_t* const x = job.x + chunk * (16 / sets * weight_bytes);
      unroll<16>([&](auto j) __attribute__((always_inline)) {
        constexpr int set = TC ? (j >> 1) & 1 : 0, at = TC ? (j >> 2) * 2 + (j & 1) : j;
        const V v = halves.template value<code>(window.template state<j * K>()), h = _mm512_srai_epi16(v, 8);
        for (int b = 0; b < T; ++b) {
          const uint8_t* const digits = x + b * job.stride + at * weight_bytes;
          V(&level)[levels] = sum[b][set];
          level[0] = _mm512_dpwssd_epi32(level[0], v, broadcast(digits));
          if constexpr (!int8) level[1] = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(level[1], v, broadcast(digits + 4)), h, broadcast(digits + 8));
        }
      });
    }
    for (int b = 0; b < T; ++b) {
      for (int set = 0; set < sets; ++set) {
        for (int level = 0; level < levels; ++level) flush<TC>(sum[b][set][level], set, level + 1 < levels ? 256 : 1, sums[b]);
      }
    }
  }
}

// ── which kernel ──────────────────────────────────────────────────────────────────────────────────────────────────────

template <ProductCode code, int K, bool TC, bool int8, int T>
void rows_of(const Job& job, int64_t (*sums)[32]) {
  if constexpr (code == ProductCode::mul1 || code == ProductCode::mad1) byte_sums<code, K, TC, int8, T>(job, sums);
  else if constexpr (code == ProductCode::hyb) pair_sums<K, TC, int8, T>(job, sums);
  else half_sums<code, K, TC, int8, T>(job, sums);
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

// For each weight of a run its digits, of both lanes beside each other.
std::vector<Slot> word_slots(Order order, int digits) {
  std::vector<Slot> slots;
  for (int p = 0; p < 16; ++p) {
    for (int i = 0; i < 2 * digits && !(order.tensor_core && p & 2); ++i) slots.push_back({order.column(p, i % 2), i / 2});
  }
  return slots;
}

// In int8 four times the one digit of a weight in the even lanes, then in the odd ones.
std::vector<Slot> int8_slots(Order order) {
  std::vector<Slot> slots;
  for (int p = 0; p < 16; ++p) {
    for (int i = 0; i < 8 && !(order.tensor_core && p & 2); ++i) slots.push_back({order.column(p, i / 4), 0});
  }
  return slots;
}

std::vector<Slot> pair_slots(Order order, int digits) {
  std::vector<Slot> slots;
  for (int g = 0; g < 4; ++g) {
    if (order.tensor_core && g % 2) continue;
    const int states[2] = {order.tensor_core ? second_of<true>(g) : second_of<false>(g), order.tensor_core ? first_of<true>(g) : first_of<false>(g)};
    for (int i = 0; i < 8 * digits; ++i) slots.push_back({order.column(states[i % 2] * 2 + i / (4 * digits), i % 4 / 2), i / 4 % digits});
  }
  return slots;
}

template <ProductCode code>
Kernel kernel(int K, Order order, bool int8) {
  const auto rows = int8 ? find_rows<code, true>(K, order.tensor_core) : find_rows<code, false>(K, order.tensor_core);
  if constexpr (code == ProductCode::hyb) {
    if (int8) return {rows, Digits::one, pair_slots(order, 1), 1, 128, 0, Pairs<true>::arrange};
    return {rows, Digits::bytes, pair_slots(order, 3), 1, 128, 128, Pairs<false>::arrange};
  } else if constexpr (code == ProductCode::mul1 || code == ProductCode::mad1) {
    if (int8) return {rows, Digits::one, int8_slots(order), 1};
    return {rows, Digits::halves, word_slots(order, 2), 2};
  } else {
    return {rows, int8 ? Digits::one : Digits::bytes, word_slots(order, int8 ? 1 : 3), 2};
  }
}

}  // namespace

Kernel avx512_kernel(ProductCode code, int K, Order order, bool int8) {
  switch (code) {
    case ProductCode::hyb: return kernel<ProductCode::hyb>(K, order, int8);
    case ProductCode::inst3: return kernel<ProductCode::inst3>(K, order, int8);
    case ProductCode::mcg: return kernel<ProductCode::mcg>(K, order, int8);
    case ProductCode::mul1: return kernel<ProductCode::mul1>(K, order, int8);
    case ProductCode::mad1: return kernel<ProductCode::mad1>(K, order, int8);
  }
  return {};
}

}  // namespace ops::product
