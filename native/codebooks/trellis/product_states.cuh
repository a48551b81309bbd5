// defines: Chunk, Walk, Window, windows, state: from the words of product_kernel.cuh's packed matrix to states.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace ops::product {

template <int K>
struct Chunk {
  uint32_t word[2 * K];  // [row of tiles][K]
  __device__ void load(const uint32_t* mine) {
    if constexpr (K % 2 == 0) {
#pragma unroll
      for (int i = 0; i < K / 2; ++i) {
        const uint4 v = __ldcs(reinterpret_cast<const uint4*>(mine) + i * 32);
        word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < K; ++i) {
        const uint2 v = __ldcs(reinterpret_cast<const uint2*>(mine) + i * 32);
        word[2 * i] = v.x, word[2 * i + 1] = v.y;
      }
    }
  }
};

// Which lane has the segment after this one's. In natural order the last row of the upper half of a tile goes on in the lower half, whose
// segments are every lane's odd ones: there `turned`.
template <bool natural>
struct Walk {
  int next, second;  // lanes of the next segment and the one after
  bool turned, second_turned;
  uint32_t even, odd;  // K = 2: which bytes of the next lane's and the own word make a window
  __device__ explicit Walk(int lane) {
    if constexpr (natural) {
      turned = lane >= 28 && lane % 2 == 1, second_turned = lane >= 28;
      next = lane % 2 == 0 ? lane + 1 : (lane + 3) & 31;
      second = (lane + 4) & 31;
      even = turned ? 0x5432 : 0x5410, odd = turned ? 0x7610 : 0x7632;
    } else {
      next = (lane + 1) & 31, second = (lane + 2) & 31, turned = second_turned = false, even = 0x5410, odd = 0x7632;
    }
  }
  __device__ uint32_t halves(uint32_t other) const { return natural ? __byte_perm(other, 0, turned ? 0x1032 : 0x3210) : other; }
};

// A segment's bits and the next one's first: high begins with the segment, low 8 (K = 3) or 16 (K = 4) bits later.
struct Window {
  uint32_t high, low;
};

// Windows of four segments from their K words.
template <int K, bool natural>
__device__ inline void windows(const uint32_t* word, const Walk<natural>& walk, Window (&out)[4]) {
  const auto from = [&](uint32_t own, int lane) { return __shfl_sync(~0u, own, lane); };
  if constexpr (K == 1) {
    const uint32_t own = word[0];
    uint32_t n1 = from(own, walk.next), n2 = from(own, walk.second);
    if constexpr (natural) n1 = __byte_perm(n1, 0, walk.turned ? 0x2301 : 0x3210), n2 = __byte_perm(n2, 0, walk.second_turned ? 0x2301 : 0x3210);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t two = __byte_perm(n1, own, t | (4 + t) << 4);
      out[t].high = __byte_perm(n2, two, 0x5400 | t << 4);  // a byte of this segment, of the next, of the next but one
    }
  } else if constexpr (K == 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t own = word[i], next = from(own, walk.next);
      out[2 * i].high = __byte_perm(next, own, walk.even);
      out[2 * i + 1].high = __byte_perm(next, own, walk.odd);
    }
  } else if constexpr (K == 3) {
    // Their 24 bits, and dirt above.
    const uint32_t own[4] = {word[0], __funnelshift_r(word[0], word[1], 24), __funnelshift_r(word[1], word[2], 16), word[2] >> 8};
    const uint32_t first[2] = {__byte_perm(own[0], own[1], 0x6521), __byte_perm(own[2], own[3], 0x6521)};  // their first 16 bits
    const uint32_t next[2] = {walk.halves(from(first[0], walk.next)), walk.halves(from(first[1], walk.next))};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      out[t].high = __byte_perm(next[t / 2], own[t], t % 2 ? 0x6543 : 0x6541);  // own 24 bits, 8 of the next
      out[t].low = __byte_perm(next[t / 2], own[t], t % 2 ? 0x5432 : 0x5410);   // own last 16, 16 of the next
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t next = walk.halves(from(__byte_perm(word[2 * i], word[2 * i + 1], 0x7632), walk.next));
#pragma unroll
      for (int t = 2 * i; t < 2 * i + 2; ++t) {
        out[t].high = word[t];
        out[t].low = __byte_perm(next, word[t], t % 2 ? 0x5432 : 0x5410);  // own last 16, 16 of the next
      }
    }
  }
}

// The state that begins `at` bits into the segment; above its 16 bits anything, or zeros where `clean`.
template <int K, int at, bool clean>
__device__ inline uint32_t state(const Window& w) {
  constexpr bool late = at > 16;
  constexpr int start = at - (late ? K == 3 ? 8 : 16 : 0);  // in the register
  const uint32_t word = late ? w.low : w.high;
  if constexpr (!clean) return word >> (16 - start);
  // Shifted to a byte's edge, states that are whole bytes apart share the shift.
  else return __byte_perm(word << start % 8, 0, start / 8 == 0 ? 0x4432 : start / 8 == 1 ? 0x4421 : 0x4410);
}

}  // namespace ops::product
