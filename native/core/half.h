// defines: conversions between f32 and the two-byte floats, rounding to nearest even; NaN stays a (quiet) NaN. On every backend the same code (constexpr).
#pragma once
#include <bit>
#include <cstdint>

namespace ops {

constexpr float bf16_to_f32(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

constexpr uint16_t f32_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

constexpr float f16_to_f32(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16, magnitude = x & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinite, or NaN made quiet
    return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00 ? 0x400000 : 0));
  }
  // 2^112 moves the exponent from f16's bias (15) to f32's (127), subnormals included; exact.
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

constexpr uint16_t f32_to_f16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and above
  if (magnitude < 0x38800000) {  // below 2^-14: adding 1/2 leaves the subnormal's 10 bits at the bottom of the mantissa, rounded
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

// f64 → f32 with the last bit set when inexact: rounding the result to fewer bits rounds x itself to nearest even.
constexpr float f64_to_f32_odd(double x) {
  const float nearest = static_cast<float>(x);
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  const double back = nearest;
  if (back == x || x != x) return nearest;
  if ((back < 0 ? -back : back) > (x < 0 ? -x : x)) --bits;  // towards zero
  return std::bit_cast<float>(bits | 1);
}

}  // namespace ops
