// defines: Chunk, Stretch, state: from the words of product_kernel.cuh's packed matrix to states.
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
  // If there is one. By the compiler a branch, whose end copies what was loaded, and so waits for it.
  __device__ void load_if(bool there, const uint32_t* mine) {
    if constexpr (K % 2 == 0) {
#pragma unroll
      for (int i = 0; i < K / 2; ++i) {
        asm volatile("{.reg .pred p; setp.ne.u32 p, %5, 0; @p ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];}"
                     : "+r"(word[4 * i]), "+r"(word[4 * i + 1]), "+r"(word[4 * i + 2]), "+r"(word[4 * i + 3])
                     : "l"(mine + i * 128), "r"(static_cast<uint32_t>(there)));
      }
    } else {
#pragma unroll
      for (int i = 0; i < K; ++i) {
        asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p ld.global.cs.v2.u32 {%0, %1}, [%2];}"
                     : "+r"(word[2 * i]), "+r"(word[2 * i + 1])
                     : "l"(mine + i * 64), "r"(static_cast<uint32_t>(there)));
      }
    }
  }
};

// A lane's 32K bits of a tile, the first bit on top, and the 32 bits after them, which begin the stretch of the lane four further.
template <int K>
struct Stretch {
  uint32_t word[K + 1];
  __device__ explicit Stretch(const uint32_t* own) {
#pragma unroll
    for (int i = 0; i < K; ++i) word[i] = own[i];
    word[K] = __shfl_sync(~0u, own[0], threadIdx.x + 4);  // of 32: they go round
  }
  // 32 bits from bit `at` on.
  template <int at>
  __device__ uint32_t from() const {
    if constexpr (at % 32 == 0) return word[at / 32];
    else return __funnelshift_l(word[at / 32 + 1], word[at / 32], at % 32);
  }
};

// Where the 32 bits begin in which a clean state is found, one of three that are whole bytes apart; as they are stored where that is possible.
template <int K, int at>
constexpr int word_at = at % 8 == 0 ? (at / 8 % 4 < 3 ? at / 32 * 32 : at) : at / 24 * 24 + at % 8;
template <int K, int at>
__device__ inline uint32_t word_of(const Stretch<K>& bits) { return bits.template from<word_at<K, at>>(); }
// Whether it is their lower half, and the upper one a state as well.
template <int K, int at>
constexpr bool is_second = at - word_at<K, at> == 16 && 16 % K == 0;

// The state of 16 bits that begins at bit `at` of a stretch; above its bits anything, or zeros where `clean`.
template <int K, int at, bool clean>
__device__ inline uint32_t state(const Stretch<K>& bits) {
  constexpr int in = at % 32;
  if constexpr (!clean) {
    if constexpr (in <= 16) return bits.word[at / 32] >> (16 - in);
    else return __funnelshift_r(bits.word[at / 32 + 1], bits.word[at / 32], 48 - in);
  } else {
    constexpr int bytes = (at - word_at<K, at>) / 8;
    return __byte_perm(word_of<K, at>(bits), 0, bytes == 0 ? 0x4432 : bytes == 1 ? 0x4421 : 0x4410);
  }
}

// Which of a lane's 32 weights is in its first (0) or second row of a tile, column of 16. A tile in natural order gives a lane rows 2g and 2g + 1
// whole, one in tensor-core order rows g and g + 8, in the order of the instruction.
__host__ __device__ constexpr int weight_at(int row, int column, bool natural) {
  return natural ? row * 16 + column : column % 8 / 2 * 8 + column / 8 * 4 + row * 2 + column % 2;
}

}  // namespace ops::product
