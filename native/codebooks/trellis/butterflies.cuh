// defines: spot, along_runs: S of a randomized Hadamard transform, along runs of numbers in shared memory.
#pragma once
#include <cuda_runtime.h>

namespace ops {

// Numbers in shared memory, one place left out after 32: neither neighbours nor powers of two apart meet in a bank.
__host__ __device__ constexpr int spot(int i) { return i + i / 32; }

// Stages of strides h, 2h, … < R·h, by a block of `threads`.
template <int R, int threads>
__device__ void stages(float* x, int size, int h) {
  for (int g = threadIdx.x; g < size / R; g += threads) {
    const int first = g / h * h * R + g % h;
    float v[R];
#pragma unroll
    for (int i = 0; i < R; ++i) v[i] = x[spot(first + i * h)];
#pragma unroll
    for (int s = 1; s < R; s *= 2) {
#pragma unroll
      for (int i = 0; i < R; ++i) {
        if (i & s) continue;
        const float a = v[i], b = v[i + s];
        v[i] = a + b, v[i + s] = a - b;
      }
    }
#pragma unroll
    for (int i = 0; i < R; ++i) x[spot(first + i * h)] = v[i];
  }
}

// S along runs of w of `size` numbers at their spots, in place; with a barrier before and behind.
template <int threads>
__device__ void along_runs(float* x, int size, int w) {
  __syncthreads();
  for (int h = 1; h < w;) {
    const int left = w / h;
    if (left >= 16) stages<16, threads>(x, size, h), h *= 16;
    else if (left == 8) stages<8, threads>(x, size, h), h *= 8;
    else if (left == 4) stages<4, threads>(x, size, h), h *= 4;
    else stages<2, threads>(x, size, h), h *= 2;
    __syncthreads();
  }
}

}  // namespace ops
