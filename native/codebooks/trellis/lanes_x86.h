// defines: Lanes8, Lanes16 and (with AVX-512) Lanes32, the vectors of search_kernel.h on x86.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace ops::trellis {
namespace {

// Where narrowing two registers of 32 bits to one of 16 takes a lane from: blocks of 128 bits alternate.
template <int Lanes>
int packed_slot(int lane) {
  return lane / 8 * 4 + lane % 4 + (lane & 4 ? Lanes / 2 : 0);
}

struct Lanes8 {
  using T = __m128i;
  static constexpr int lanes = 8;
  static int slot(int lane) { return packed_slot<lanes>(lane); }
  static T load(const uint16_t* p) { return _mm_load_si128(reinterpret_cast<const __m128i*>(p)); }
  static T load32(const int32_t* p) { return _mm_load_si128(reinterpret_cast<const __m128i*>(p)); }
  static void store(uint16_t* p, T a) { _mm_store_si128(reinterpret_cast<__m128i*>(p), a); }
  static void stream(uint16_t* p, T a) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), a); }
  static void fence() { _mm_sfence(); }
  static T set(int a) { return _mm_set1_epi16(short(a)); }
  static T add(T a, T b) { return _mm_adds_epu16(a, b); }
  static T sub(T a, T b) { return _mm_subs_epu16(a, b); }
  static T min(T a, T b) { return _mm_min_epu16(a, b); }
  static T both(T a, T b) { return _mm_and_si128(a, b); }
  static T shift_left(T a, int n) { return _mm_slli_epi16(a, n); }
#ifdef __AVX512VL__
  static T select(T mask, T a, T b) { return _mm_ternarylogic_epi32(mask, a, b, 0xca); }
#else
  static T select(T mask, T a, T b) { return _mm_or_si128(_mm_and_si128(mask, a), _mm_andnot_si128(mask, b)); }
#endif
  static T choose_less(T a, T b, T yes, T no) { return _mm_blendv_epi8(yes, no, _mm_cmpeq_epi16(_mm_min_epu16(a, b), b)); }
  static T error(T x, T rest, int32_t pair, int32_t norm) {
    return _mm_sub_epi32(_mm_add_epi32(rest, _mm_set1_epi32(norm)), _mm_madd_epi16(x, _mm_set1_epi32(pair)));
  }
  static T shift_right(T a, int n) { return _mm_srai_epi32(a, n); }
  static T narrow(T a, T b) { return _mm_packus_epi32(a, b); }
};

struct Lanes16 {
  using T = __m256i;
  static constexpr int lanes = 16;
  static int slot(int lane) { return packed_slot<lanes>(lane); }
  static T load(const uint16_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static T load32(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(uint16_t* p, T a) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), a); }
  static void stream(uint16_t* p, T a) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), a); }
  static void fence() { _mm_sfence(); }
  static T set(int a) { return _mm256_set1_epi16(short(a)); }
  static T add(T a, T b) { return _mm256_adds_epu16(a, b); }
  static T sub(T a, T b) { return _mm256_subs_epu16(a, b); }
  static T min(T a, T b) { return _mm256_min_epu16(a, b); }
  static T both(T a, T b) { return _mm256_and_si256(a, b); }
  static T shift_left(T a, int n) { return _mm256_slli_epi16(a, n); }
#ifdef __AVX512VL__
  static T select(T mask, T a, T b) { return _mm256_ternarylogic_epi32(mask, a, b, 0xca); }
#else
  static T select(T mask, T a, T b) { return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b)); }
#endif
  static T choose_less(T a, T b, T yes, T no) { return _mm256_blendv_epi8(yes, no, _mm256_cmpeq_epi16(_mm256_min_epu16(a, b), b)); }
  static T error(T x, T rest, int32_t pair, int32_t norm) {
    return _mm256_sub_epi32(_mm256_add_epi32(rest, _mm256_set1_epi32(norm)), _mm256_madd_epi16(x, _mm256_set1_epi32(pair)));
  }
  static T shift_right(T a, int n) { return _mm256_srai_epi32(a, n); }
  static T narrow(T a, T b) { return _mm256_packus_epi32(a, b); }
};

#ifdef __AVX512BW__
struct Lanes32 {
  using T = __m512i;
  static constexpr int lanes = 32;
  static int slot(int lane) { return packed_slot<lanes>(lane); }
  static T load(const uint16_t* p) { return _mm512_load_si512(p); }
  static T load32(const int32_t* p) { return _mm512_load_si512(p); }
  static void store(uint16_t* p, T a) { _mm512_store_si512(p, a); }
  static void stream(uint16_t* p, T a) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), a); }
  static void fence() { _mm_sfence(); }
  static T set(int a) { return _mm512_set1_epi16(short(a)); }
  static T add(T a, T b) { return _mm512_adds_epu16(a, b); }
  static T sub(T a, T b) { return _mm512_subs_epu16(a, b); }
  static T min(T a, T b) { return _mm512_min_epu16(a, b); }
  static T both(T a, T b) { return _mm512_and_si512(a, b); }
  static T shift_left(T a, int n) { return _mm512_slli_epi16(a, unsigned(n)); }
  static T select(T mask, T a, T b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }
  static T choose_less(T a, T b, T yes, T no) { return _mm512_mask_mov_epi16(no, _mm512_cmplt_epu16_mask(a, b), yes); }
  static T error(T x, T rest, int32_t pair, int32_t norm) {
    return _mm512_sub_epi32(_mm512_add_epi32(rest, _mm512_set1_epi32(norm)), _mm512_madd_epi16(x, _mm512_set1_epi32(pair)));
  }
  static T shift_right(T a, int n) { return T(__v16si(a) >> n); }
  static T narrow(T a, T b) { return _mm512_packus_epi32(a, b); }
};
#endif

}  // namespace
}  // namespace ops::trellis
