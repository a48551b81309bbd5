// defines: products of 16 × 16 by 16 × 8 bf16 matrices by one warp, and what brings their operands there.
#pragma once
#include <bit>
#include <vector>

#include "bf16.cuh"

namespace ops {

__device__ inline uint32_t shared_address(const void* data) { return static_cast<uint32_t>(__cvta_generic_to_shared(data)); }

// Four 8 by 8 matrices; the lanes of a quarter warp name the rows of one.
__device__ inline void load_matrices(uint32_t (&to)[4], const uint16_t* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}
__device__ inline void load_transposed(uint32_t (&to)[4], const uint16_t* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}
// d [16, 8] += a [16, 16] · b [16, 8]
__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Matrices of 16 rows whose numbers bf16 has as A operands of `multiply`: [tiles][steps of 16 columns][32 lanes][4 words], the words as f32s.
// at(tile, row, column) gives a number.
template <class F>
std::vector<float> a_operands(int tiles, int steps, F at) {
  std::vector<float> words;
  words.reserve(static_cast<size_t>(tiles) * steps * 128);
  for (int tile = 0; tile < tiles; ++tile) {
    for (int step = 0; step < steps; ++step) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int word = 0; word < 4; ++word) {
          const int row = lane / 4 + word % 2 * 8, column = step * 16 + lane % 4 * 2 + word / 2 * 8;
          uint32_t bits = 0;
          for (int i = 0; i < 2; ++i) bits |= std::bit_cast<uint32_t>(at(tile, row, column + i)) >> 16 << 16 * i;
          words.push_back(std::bit_cast<float>(bits));
        }
      }
    }
  }
  return words;
}
// 16 bytes on their way to shared memory, or zeros.
__device__ inline void copy_async(uint16_t* to, const uint16_t* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace ops
