// defines: exp of a vector, for whatever instruction set the including file is compiled for.
#pragma once
#include <cstdint>
#include <cstring>

namespace ops {
namespace {

// BYTES is a vector's size: 16, 32 or 64.
template <int BYTES>
struct Lanes {
  static constexpr int W = BYTES / 4;
  typedef float Float __attribute__((vector_size(BYTES)));
  typedef int32_t Int __attribute__((vector_size(BYTES)));
  typedef float Unaligned __attribute__((vector_size(BYTES), aligned(4), may_alias));

  static Float load(const float* x) { return *reinterpret_cast<const Unaligned*>(x); }
  static void store(float* x, Float v) { *reinterpret_cast<Unaligned*>(x) = v; }

  // e^x within 2 units in the last place; x is held to [-87.3, 88.3], where the result is a normal number. NaN stays NaN.
  //
  // x = k·ln 2 + r with |r| ≤ ln 2 / 2: e^r by its Taylor polynomial of degree 7 (the first term left out is below
  // 2⁻²⁶), 2ᵏ by the exponent's bits. ln 2 is taken in two parts, so that k·(first part) is exact.
  static Float exp(Float x) {
    x = x < -87.3f ? Float{} - 87.3f : x;
    x = x > 88.3f ? Float{} + 88.3f : x;
    const Float round = Float{} + 12582912.0f;  // 1.5·2²³: adding it leaves a whole number in the low bits
    const Float shifted = x * 1.44269504f + round;
    const Float k = shifted - round;
    const Float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    Float p = Float{} + 1.98412698e-4f;  // 1/7!
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Int bits = (reinterpret_cast<Int>(shifted) - 0x4b400000 + 127) << 23;
    return p * reinterpret_cast<Float>(bits);
  }

  // The largest of n ≥ 1 numbers.
  static float max_of(const float* x, int64_t n) {
    float max = x[0];
    int64_t i = 0;
    if (n >= W) {
      Float lanes = load(x);
      for (i = W; i + W <= n; i += W) {
        const Float v = load(x + i);
        lanes = v > lanes ? v : lanes;
      }
      float parts[W];
      store(parts, lanes);
      for (const float part : parts) max = part > max ? part : max;
    }
    for (; i < n; ++i) max = x[i] > max ? x[i] : max;
    return max;
  }

  // Σ x[i], by W partial sums.
  static float sum_of(const float* x, int64_t n) {
    Float lanes = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) lanes += load(x + i);
    float parts[W], sum = 0;
    store(parts, lanes);
    for (const float part : parts) sum += part;
    for (; i < n; ++i) sum += x[i];
    return sum;
  }

  // out[i] = e^(scale·x[i] + shift)
  static void exp_all(const float* x, float scale, float shift, float* out, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(out + i, exp(load(x + i) * scale + shift));
    if (i == n) return;
    float rest[W] = {};
    std::memcpy(rest, x + i, (n - i) * sizeof(float));
    store(rest, exp(load(rest) * scale + shift));
    std::memcpy(out + i, rest, (n - i) * sizeof(float));
  }
};

}  // namespace
}  // namespace ops
