// Products with AVX-512 (VBMI, VBMI2, VNNI): 32 runs in the lanes, so that x is broadcast.
#include <immintrin.h>

#include "product_words.h"

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
struct ChunkWindow {
  V word[K + 1];
  explicit ChunkWindow(const uint16_t* from, int = 0) {
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

// ── a word a weight ───────────────────────────────────────────────────────────────────────────────────────────────────

struct Lanes {
  using V = __m512i;
  static constexpr int parts = 1, most_sums = 16, chains = 4;
  static constexpr bool unrolled = true;
  template <int K, bool TC>
  using Window = ChunkWindow<K, TC>;
  V power[2];  // ±2^e by the six highest bits of a half, of which three say nothing
  Lanes() {
    alignas(64) int16_t by_bits[64];
    for (int i = 0; i < 64; ++i) by_bits[i] = static_cast<int16_t>((i & 32 ? -1 : 1) * (1 << ((i & 3) ^ 2)));
    for (int i = 0; i < 2; ++i) power[i] = _mm512_load_si512(by_bits + 32 * i);
  }

  static V low_words(V s) { return _mm512_maskz_unpacklo_epi16(~__mmask32{}, s, _mm512_setzero_si512()); }
  static V high_words(V s) { return _mm512_maskz_unpackhi_epi16(~__mmask32{}, s, _mm512_setzero_si512()); }
  static V narrow(V a, V b) { return _mm512_packs_epi32(a, b); }
  template <uint32_t c, uint32_t d>
  static V affine(V s) {
    const V product = _mm512_mullo_epi32(s, _mm512_set1_epi32(static_cast<int>(c)));
    return d == 0 ? product : _mm512_add_epi32(product, _mm512_set1_epi32(static_cast<int>(d)));
  }
  // What states in the even lanes and in the odd ones are summed from.
  template <ProductCode code>
  static void products(V s, V (&product)[2]) {
    constexpr auto c = hash_of(code).factor, d = hash_of(code).addend;
    product[0] = affine<c, d>(_mm512_maskz_andnot_epi32(kAll, _mm512_set1_epi32(-65536), s));
    product[1] = affine<c, d>(_mm512_maskz_srli_epi32(kAll, s, 16));
  }
  template <ProductCode code>
  static V byte_sums(V s) {
    V product[2];
    products<code>(s, product);
    for (V& p : product) p = _mm512_dbsad_epu8(p, _mm512_setzero_si512(), 0);  // the sum of each lane's four bytes, in both halves of it
    return select(_mm512_set1_epi32(-65536), product[1], product[0]);
  }
  V f16_sum(V x) const {
    const V digits = _mm512_ternarylogic_epi32(x, words16(0x3ff), words16(0x760), 0x6a);  // (x & …) ^ …
    return _mm512_madd_epi16(digits, _mm512_permutex2var_epi16(power[0], _mm512_srli_epi16(x, 10), power[1]));
  }
  static V dot(V sum, V v, const uint8_t* x) { return _mm512_dpwssd_epi32(sum, v, broadcast(x)); }
  static V plus(V a, V b) { return _mm512_add_epi32(a, b); }
  static void carry(V& low, V& carried) {
    carried = _mm512_add_epi32(carried, _mm512_maskz_srai_epi32(kAll, low, 16));
    low = _mm512_maskz_andnot_epi32(kAll, _mm512_set1_epi32(-65536), low);
  }
  static void store(int32_t* to, V v) { _mm512_store_si512(to, v); }
};

// ── sums of bytes in int8, of one vector ──────────────────────────────────────────────────────────────────────────────

// The bytes of 32 bits times x, which is four times its one digit: what sums them is the dot product.
template <ProductCode code, int K, bool TC>
void byte_sums(const Job& job, int64_t* sums) {
  constexpr int sets = TC ? 2 : 1, turns = 2, x_bytes = 16 / sets * 8;
  constexpr int64_t until = 1024;  // chunks until 32 bits might overflow: 1020 · 127 · 8 a chunk
  for (int64_t from = 0; from < job.chunks; from += until) {
    V sum[turns][sets][2] = {};
    for (int64_t chunk = from; chunk < std::min(job.chunks, from + until); ++chunk) {
      fetch<K>(job.words + chunk * K * kLanes);
      const ChunkWindow<K, TC> window(job.words + chunk * K * kLanes);
      const uint8_t* const x = job.x + chunk * x_bytes;
      unroll<16>([&](auto j) __attribute__((always_inline)) {
        constexpr int set = TC ? (j >> 1) & 1 : 0, at = TC ? (j >> 2) * 2 + (j & 1) : j;
        V product[2];
        Lanes::products<code>(window.template state<j * K>(), product);
        for (int d = 0; d < 2; ++d) {
          V& into = sum[at % turns][set][d];
          into = _mm512_dpbusd_epi32(into, product[d], broadcast(x + at * 8 + d * 4));
        }
      });
    }
    for (auto& turn : sum) {
      for (int set = 0; set < sets; ++set) {
        for (V& part : turn[set]) flush<TC>(part, set, 1, sums);
      }
    }
  }
}

// ── hyb, a byte or two an entry ───────────────────────────────────────────────────────────────────────────────────────

struct Halves {
  V low, high;
};
// High and low bytes of two states' words, theirs beside each other: bytes 3 and 1 of a lane pair are those of a, 2 and 0 those of b.
inline Halves planes(V a, V b) {
  const V high = words16(0xff00);
  return {select(high, _mm512_slli_epi16(a, 8), b), select(high, a, _mm512_srli_epi16(b, 8))};
}

// u = s(s + 1) of 64 states.
inline Halves hashes(V a, V b) {
  const V one = words16(-1);
  return planes(_mm512_mullo_epi16(a, _mm512_sub_epi16(a, one)), _mm512_mullo_epi16(b, _mm512_sub_epi16(b, one)));
}

// (256·high + low) · X in three levels, of 2^16, 2^8 and 1 · 256: without low times the last digit. With five sums, low's are the last two, of
// levels 1 and 2.
template <int T, int n>
[[gnu::always_inline]] inline void multiply(const Halves& plane, const uint8_t* x, int64_t stride, V (&sum)[T][n]) {
  for (int b = 0; b < T; ++b) {
    for (int digit = 0; digit < 3; ++digit) {
      const V at = broadcast(x + b * stride + 4 * digit);
      V &high = sum[b][digit], &low = sum[b][n - 2 + digit];
      high = _mm512_dpbusd_epi32(high, plane.high, at);
      if (digit < 2) low = _mm512_dpbusd_epi32(low, plane.low, at);
    }
  }
}

// HYB: 512 pairs in the registers' bytes: [component][high, low; in int8 one][two bits of the row][halves of the other seven].
template <bool int8>
struct BytePairs {
  static constexpr int planes_each = int8 ? 1 : 2;
  V table[2][planes_each][4][2];
  explicit BytePairs(const Job& job) {
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
    explicit Index(const Halves& u)
        : row(u.high), high(_mm512_movepi8_mask(u.low)), low(_mm512_test_epi8_mask(u.low, words16(0x4040))), not_low(_knot_mask64(low)) {}
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

// Of groups g and g + 1 of a chunk.
template <int g, int K, bool TC>
[[gnu::always_inline]] inline void hashes(const ChunkWindow<K, TC>& window, Halves (&u)[2]) {
  unroll<2>([&](auto i) __attribute__((always_inline)) {
    u[i] = hashes(window.template state<first_of<TC>(g + i) * 2 * K>(), window.template state<second_of<TC>(g + i) * 2 * K>());
  });
}

// 128 states side by side, and those after them hashed before: what a lookup needs is there when its turn comes.
template <int K, bool TC, bool int8, int T>
void pair_sums(const Job& job, int64_t (*sums)[32]) {
  constexpr int sets = TC ? 2 : 1, groups = 4, levels = int8 ? 1 : 3, component_bytes = 4 * levels, group_bytes = 2 * component_bytes;
  constexpr int64_t until = 1024;  // chunks until 32 bits might overflow
  constexpr int sums_each = T > 1 || TC ? levels : int8 ? 2 : 5;  // so many that one vector's do not wait for each other
  const BytePairs<int8> pairs(job);
  for (int64_t from = 0; from < job.chunks; from += until) {
    const int64_t last = std::min(job.chunks, from + until) - 1;
    V sum[sets][T][sums_each] = {};
    Halves u[2];
    hashes<0>(ChunkWindow<K, TC>(job.words + from * K * kLanes), u);
    for (int64_t chunk = from; chunk <= last; ++chunk) {
      fetch<K>(job.words + chunk * K * kLanes);
      const ChunkWindow<K, TC> window(job.words + chunk * K * kLanes), after(job.words + std::min(chunk + 1, last) * K * kLanes);
      const uint8_t* const x = job.x + chunk * (groups / sets * group_bytes);
      unroll<groups / 2>([&](auto i) __attribute__((always_inline)) {
        constexpr int g = 2 * i;
        using Index = typename BytePairs<int8>::Index;
        const Index at[2] = {Index(u[0]), Index(u[1])};
        if constexpr (g + 2 < groups) hashes<g + 2>(window, u);
        else hashes<0>(after, u);
        unroll<2>([&](auto c) __attribute__((always_inline)) {
          V planes[BytePairs<int8>::planes_each][2];
          pairs.template component<c>(at, planes);
          for (int j = 0; j < 2; ++j) {
            V(&into)[T][sums_each] = sum[j % sets];
            const uint8_t* const digits = x + (g + j) / sets * group_bytes + component_bytes * c;
            if constexpr (int8) {
              for (int b = 0; b < T; ++b) {
                V& total = into[b][c % sums_each];
                total = _mm512_dpbusd_epi32(total, planes[0][j], broadcast(digits + b * job.stride));
              }
            } else {
              multiply({planes[1][j], planes[0][j]}, digits, job.stride, into);
            }
          }
        });
      });
    }
    for (int set = 0; set < sets; ++set) {
      for (int b = 0; b < T; ++b) {
        for (int i = 0; i < sums_each; ++i) {
          const int level = int8 ? 0 : i < 3 ? i : i - 2;
          flush<TC>(sum[set][b][i], set, int64_t{1} << 8 * (levels - 1 - level), sums[b]);
        }
      }
    }
  }
}

// ── which kernel ──────────────────────────────────────────────────────────────────────────────────────────────────────

template <int K, bool TC, bool int8>
void pair_rows(const Job& job, int vectors, int64_t (*sums)[32]) {
  constexpr int most = TC && !int8 ? 4 : 8;
  in_turns<most>(job, vectors, sums, [](const Job& job, int64_t (*sums)[32], auto T) { pair_sums<K, TC, int8, T>(job, sums); });
}
template <bool int8>
Kernel byte_pairs_kernel(int K, Order order) {
  constexpr decltype(&pair_rows<1, false, int8>) list[4][2] = {{pair_rows<1, false, int8>, pair_rows<1, true, int8>},
                                                               {pair_rows<2, false, int8>, pair_rows<2, true, int8>},
                                                               {pair_rows<3, false, int8>, pair_rows<3, true, int8>},
                                                               {pair_rows<4, false, int8>, pair_rows<4, true, int8>}};
  constexpr int digits = int8 ? 1 : 3;
  Kernel kernel{list[K - 1][order.tensor_core], int8 ? Digits::one : Digits::bytes, {}, 1, 128, int8 ? 0 : 128, BytePairs<int8>::arrange};
  for (int g = 0; g < 4; ++g) {
    if (order.tensor_core && g % 2) continue;
    const int states[2] = {order.tensor_core ? second_of<true>(g) : second_of<false>(g), order.tensor_core ? first_of<true>(g) : first_of<false>(g)};
    for (int i = 0; i < 8 * digits; ++i) kernel.slots.add({order.column(states[i % 2] * 2 + i / (4 * digits), i % 4 / 2), i / 4 % digits});
  }
  return kernel;
}

template <ProductCode code, int K, bool TC>
void byte_rows(const Job& job, int, int64_t (*sums)[32]) { byte_sums<code, K, TC>(job, sums[0]); }
// x: four times the one digit of a weight in the even lanes, then in the odd ones.
template <ProductCode code>
Kernel bytes_kernel(int K, Order order) {
  constexpr decltype(&byte_rows<code, 1, false>) list[4][2] = {{byte_rows<code, 1, false>, byte_rows<code, 1, true>},
                                                               {byte_rows<code, 2, false>, byte_rows<code, 2, true>},
                                                               {byte_rows<code, 3, false>, byte_rows<code, 3, true>},
                                                               {byte_rows<code, 4, false>, byte_rows<code, 4, true>}};
  Kernel kernel{list[K - 1][order.tensor_core], Digits::one, {}};
  for (int p = 0; p < 16; ++p) {
    for (int i = 0; i < 8 && !(order.tensor_core && p & 2); ++i) kernel.slots.add({order.column(p, i / 4), 0});
  }
  return kernel;
}

template <ProductCode code>
Kernel byte_sums_kernel(int K, Order order, bool int8, int64_t vectors) {
  return int8 && vectors == 1 ? bytes_kernel<code>(K, order) : computed_kernel<Lanes, code>(K, order, int8);
}

}  // namespace

Kernel avx512_kernel(ProductCode code, int K, Order order, bool int8, int64_t vectors) {
  switch (code) {
    case ProductCode::hyb: return int8 ? byte_pairs_kernel<true>(K, order) : byte_pairs_kernel<false>(K, order);
    case ProductCode::inst3: return computed_kernel<Lanes, ProductCode::inst3>(K, order, int8);
    case ProductCode::mcg: return computed_kernel<Lanes, ProductCode::mcg>(K, order, int8);
    case ProductCode::mul1: return byte_sums_kernel<ProductCode::mul1>(K, order, int8, vectors);
    case ProductCode::mad1: return byte_sums_kernel<ProductCode::mad1>(K, order, int8, vectors);
  }
  return {};
}

}  // namespace ops::product
