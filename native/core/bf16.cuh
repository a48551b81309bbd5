// defines: eight neighbouring elements at a time, f32 or bf16 in memory and f32 in registers: 16-byte accesses.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace ops {

constexpr int kVector = 8;

__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000); }
// Two values rounded to nearest even, `low` in the lower half.
__device__ inline uint32_t bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(uint16_t x) { return low_of(x); }
__device__ inline void narrow(float value, float& into) { into = value; }
__device__ inline void narrow(float value, uint16_t& into) { into = static_cast<uint16_t>(bf16_pair(value, 0)); }

// At 16-byte aligned addresses.
__device__ inline void load8(const float* from, float (&to)[kVector]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
__device__ inline void load8(const uint16_t* from, float (&to)[kVector]) {
  const uint4 a = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[] = {a.x, a.y, a.z, a.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) to[2 * i] = low_of(words[i]), to[2 * i + 1] = high_of(words[i]);
}
__device__ inline void store8(float* to, const float (&x)[kVector]) {
  reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
}
__device__ inline void store8(uint16_t* to, const float (&x)[kVector]) {
  *reinterpret_cast<uint4*>(to) = {bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7])};
}

}  // namespace ops
