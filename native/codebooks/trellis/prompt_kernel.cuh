// defines: incoherent_rows_kernel and coherent_rows_kernel, randomized Hadamard transforms of many rows, for what comes before and after a prompt's products.
//
// A block makes a row. The row is [factor][w] in shared memory: S along each run, then M across the runs, a product of small matrices whose
// entries −1 and 1 tensor cores take as they are, and of f32 two bf16 parts, which leave NMSE 2e-11. Both in place.
#pragma once
#include <cuda_fp16.h>

#include <vector>

#include "../../core/cuda.cuh"
#include "../../core/tensor_core.cuh"
#include "../../ops/hadamard/hadamard_matrix.h"
#include "../../ops/silu-mul/fast_silu.cuh"
#include "butterflies.cuh"
#include "prompt_product.h"

namespace ops::prompt {

constexpr int kRowThreads = 512;
constexpr int kMostTiles = 6;  // of 16 runs, of a warp: M is of order 172 at most, and two warps share it
// Tiles of a warp for M of this order, as kernels are made for; 0: there is no M.
inline int tiles_of(int64_t factor) { return factor == 1 ? 0 : factor <= 32 ? 1 : kMostTiles; }

// What prompt.h has before and after a transform, or null.
struct RowTransform {
  const float *x, *before, *after, *weight, *gate, *add;
  const uint4* mix;  // M's operands, or null
  float* y;
  int64_t stride;    // from row to row of x
  int n, factor, w;
  float norm, eps;
};
struct RowTransforms {
  RowTransform of[4];
};

inline int row_bytes(int64_t n) { return (spot(static_cast<int>(n)) + 1) * 4; }

// M, or its transpose, as A operands, zeros around. out[r] = Σ_k of[r, k]·x[k].
inline std::vector<float> operands(int factor, bool transposed) {
  const std::vector<float> matrix = hadamard_matrix(factor);
  const int tiles = (factor + 15) / 16;
  return a_operands(tiles, tiles, [&](int tile, int i, int k) {
    const int row = tile * 16 + i;
    return row < factor && k < factor ? matrix[transposed ? row * factor + k : k * factor + row] : 0.0f;
  });
}

// Two numbers as the sum of two pairs of bf16.
__device__ inline void halve(float a, float b, uint32_t& high, uint32_t& low) {
  high = bf16_pair(a, b);
  low = bf16_pair(a - low_of(high), b - high_of(high));
}

// M across runs: two warps have eight columns of all runs. Tiles that there are not are the last once more, so that no load waits behind a branch.
template <int kTiles>
__device__ void mix(const RowTransform& t, float* row) {
  constexpr int kPairs = kRowThreads / 64;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, tiles = (t.factor + 15) / 16, first = threadIdx.x / 32 % 2 * ((tiles + 1) / 2);
  const int mine = threadIdx.x / 32 % 2 ? tiles / 2 : (tiles + 1) / 2;
  for (int base = 0; base < t.w; base += kPairs * 8) {
    float d[kTiles][4] = {};
    const int left = base + threadIdx.x / 64 * 8, column = left + g;
    for (int k = 0; k < tiles; ++k) {
      uint4 of[kTiles];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) of[m] = __ldg(t.mix + (min(first + m, tiles - 1) * tiles + k) * 32 + lane);
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int run = k * 16 + c * 2 + i % 2 + i / 2 * 8;
        v[i] = run < t.factor && column < t.w ? row[spot(run * t.w + column)] : 0;
      }
      uint32_t high[2], low[2];
      halve(v[0], v[1], high[0], low[0]), halve(v[2], v[3], high[1], low[1]);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        const uint32_t a[4] = {of[m].x, of[m].y, of[m].z, of[m].w};
        multiply(d[m], a, low[0], low[1]), multiply(d[m], a, high[0], high[1]);
      }
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int run = (first + m) * 16 + g + i / 2 * 8, to = left + c * 2 + i % 2;
        if (m < mine && run < t.factor && to < t.w) row[spot(run * t.w + to)] = d[m][i];
      }
    }
  }
  __syncthreads();
}

template <int kTiles>
__device__ void transform(const RowTransform& t, float* row) {
  along_runs<kRowThreads>(row, t.n, t.w);
  if constexpr (kTiles > 0) mix<kTiles>(t, row);
}

__device__ inline float4 four(const float* from, int at) { return reinterpret_cast<const float4*>(from)[at]; }
__device__ inline float4 times(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
__device__ inline float squared(float4 a, float sum) { return fmaf(a.x, a.x, fmaf(a.y, a.y, fmaf(a.z, a.z, fmaf(a.w, a.w, sum)))); }
__device__ inline void keep(float* row, int at, float4 v) {
  float* const to = row + spot(4 * at);  // 32 divides where four begin, so that they are neighbours
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

enum class Input { scaled, normed, gated };

// The largest number that f16 parts reach: ‖x‖ becomes it, and no entry of x·H is larger.
constexpr float kMostHalf = 32768.0f;
constexpr int kLoads = 4;  // loads of a thread on their way

// (x ⊙ before)·H as f16, in units of each row: one number or, exact, two whose sum it is. Grid t; parts [1 or 2][t][columns], or by panels as
// prompt_product.h says.
template <Input kInput, int kTiles>
__global__ void __launch_bounds__(kRowThreads, 2)
    incoherent_rows_kernel(const RowTransform t, __half* parts, float* units, bool exact, int panel, bool natural) {
  extern __shared__ float row[];
  const int64_t b = blockIdx.x;
  const float* const x = t.x + b * t.stride;
  const float* const other = kInput == Input::gated ? t.gate + b * t.n : t.weight;
  float raw = 0, squares = 0;
  for (int base = threadIdx.x; base < t.n / 4; base += kLoads * kRowThreads) {
    float4 v[kLoads], by[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = min(base + i * kRowThreads, t.n / 4 - 1);
      v[i] = four(x, at);
      if constexpr (kInput != Input::scaled) by[i] = four(other, at);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = base + i * kRowThreads;
      if (at >= t.n / 4) break;
      if constexpr (kInput == Input::normed) raw = squared(v[i], raw), v[i] = times(v[i], by[i]);
      if constexpr (kInput == Input::gated) {
        v[i] = times(v[i], {fast_silu(by[i].x), fast_silu(by[i].y), fast_silu(by[i].z), fast_silu(by[i].w)});
      }
      v[i] = times(v[i], four(t.before, at));
      squares = squared(v[i], squares);
      keep(row, at, v[i]);
    }
  }
  const float size = sqrtf(block_sum(squares)), unit = size == 0 ? 1 : size * (1.001f / kMostHalf), scale = t.norm / unit;
  // rmsnorm's factor is one of the whole row, so it can be left to the unit.
  const float factor = kInput == Input::normed ? 1.0f / sqrtf(block_sum(raw) / static_cast<float>(t.n) + t.eps) : 1;
  if (threadIdx.x == 0) units[b] = unit * factor;
  transform<kTiles>(t, row);
  const int chunks = (t.n + 63) / 64;
  __half2* const to = reinterpret_cast<__half2*>(parts);
  const auto at = [&](int64_t vector, int i) { return panel == 0 ? vector * (t.n / 2) + i : place(vector, i, chunks, panel, natural); };
  for (int i = threadIdx.x; i < (panel == 0 ? t.n / 2 : chunks * 32); i += kRowThreads) {
    const bool inside = i < t.n / 2;
    const float first = inside ? row[spot(2 * i)] * scale : 0, second = inside ? row[spot(2 * i + 1)] * scale : 0;
    const __half2 pair = __floats2half2_rn(first, second);
    to[at(b, i)] = pair;
    if (exact) to[at(gridDim.x + b, i)] = __floats2half2_rn(first - __low2float(pair), second - __high2float(pair));
  }
}

// y = (x·Hᵀ) ⊙ after + add of several outputs; x in units of each row, the sum of `pieces` [t, stride] of it. Grid [t, outputs].
template <int kTiles>
__global__ void __launch_bounds__(kRowThreads, 2) coherent_rows_kernel(const RowTransforms transforms, const float* units, int pieces) {
  extern __shared__ float row[];
  const RowTransform& t = transforms.of[blockIdx.y];
  const int64_t b = blockIdx.x;
  const float scale = units[b] * t.norm;
  for (int base = threadIdx.x; base < t.n / 4; base += kLoads * kRowThreads) {
    float4 sum[kLoads] = {};
    for (int piece = 0; piece < pieces; ++piece) {
      const float* const x = t.x + (piece * static_cast<int64_t>(gridDim.x) + b) * t.stride;
      float4 v[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) v[i] = four(x, min(base + i * kRowThreads, t.n / 4 - 1));
#pragma unroll
      for (int i = 0; i < kLoads; ++i) sum[i].x += v[i].x, sum[i].y += v[i].y, sum[i].z += v[i].z, sum[i].w += v[i].w;
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = base + i * kRowThreads;
      if (at < t.n / 4) keep(row, at, times(sum[i], {scale, scale, scale, scale}));
    }
  }
  transform<kTiles>(t, row);
  const int64_t place = b * t.n;
  for (int i = threadIdx.x; i < t.n / 2; i += kRowThreads) {
    float2 v{row[spot(2 * i)], row[spot(2 * i + 1)]};
    const float2 after = reinterpret_cast<const float2*>(t.after)[i];
    v.x *= after.x, v.y *= after.y;
    if (t.add) {
      const float2 add = reinterpret_cast<const float2*>(t.add + place)[i];
      v.x += add.x, v.y += add.y;
    }
    reinterpret_cast<float2*>(t.y + place)[i] = v;
  }
}

}  // namespace ops::prompt
