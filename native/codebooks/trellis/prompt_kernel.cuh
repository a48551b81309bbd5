// defines: incoherent_rows_kernel and coherent_rows_kernel, randomized Hadamard transforms of many rows, for what comes before and after a prompt's products.
//
// A block makes a row. The row is [factor][w] in shared memory: S along each run, in place, then M across the runs as results leave, so that
// no second copy is needed: (M ⊗ I)(I ⊗ S).
#pragma once
#include <cuda_fp16.h>

#include "transform_kernel.cuh"

namespace ops::product {

constexpr int kRowThreads = kTransformThreads;

// What linear.h has before and after a transform, or null: as Transform.
struct RowTransform {
  const float *x, *before, *after, *weight, *gate, *add;
  const float* mix;  // [factor][factor up to a multiple of 8], or null
  float* y;
  int64_t stride;  // from row to row of x
  int n, factor, w;
  float norm, eps;
};
struct RowTransforms {
  RowTransform of[4];
};

inline int row_bytes(int64_t n) { return (spot(static_cast<int>(n)) + 1) * 4; }

__device__ inline void runs(float* row, int n, int w) {
  __syncthreads();
  for (int h = 1; h < w;) {
    const int left = w / h;
    if (left >= 16) stages<16>(row, n, h), h *= 16;
    else if (left == 8) stages<8>(row, n, h), h *= 8;
    else if (left == 4) stages<4>(row, n, h), h *= 4;
    else stages<2>(row, n, h), h *= 2;
    __syncthreads();
  }
}

// put(coordinate, value) for all of the row.
template <class Put>
__device__ void leave(const RowTransform& t, const float* row, Put put) {
  if (t.factor == 1) {
    for (int i = threadIdx.x; i < t.n; i += kRowThreads) put(i, row[spot(i)]);
    return;
  }
  const int across = (t.factor + 7) / 8 * 8;
  for (int item = threadIdx.x; item < across / 8 * t.w; item += kRowThreads) {
    const int c = item % t.w, first = item / t.w * 8;
    float sums[8] = {};
#pragma unroll 4
    for (int k = 0; k < t.factor; ++k) {
      const float4* const mix = reinterpret_cast<const float4*>(t.mix + k * across + first);
      const float4 low = __ldg(mix), high = __ldg(mix + 1);
      const float v = row[spot(k * t.w + c)];
      sums[0] = fmaf(low.x, v, sums[0]), sums[1] = fmaf(low.y, v, sums[1]), sums[2] = fmaf(low.z, v, sums[2]), sums[3] = fmaf(low.w, v, sums[3]);
      sums[4] = fmaf(high.x, v, sums[4]), sums[5] = fmaf(high.y, v, sums[5]), sums[6] = fmaf(high.z, v, sums[6]), sums[7] = fmaf(high.w, v, sums[7]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (first + i < t.factor) put((first + i) * t.w + c, sums[i]);
    }
  }
}

// The largest number that f16 parts reach: ‖x‖ becomes it, and no entry of x·H is larger.
constexpr float kMostHalf = 32768.0f;

// (x ⊙ before)·H as f16, in units of each row: one number or, exact, two whose sum it is. Grid t; parts [1 or 2][t][n].
template <Input kInput>
__global__ void __launch_bounds__(kRowThreads) incoherent_rows_kernel(const RowTransform t, __half* parts, float* units, bool exact) {
  extern __shared__ float row[];
  constexpr int kAhead = 8;
  const int64_t b = blockIdx.x;
  const float* const x = t.x + b * t.stride;
  const float* const gate = kInput == Input::gated ? t.gate + b * t.n : nullptr;
  float raw = 0, squares = 0;
  for (int base = threadIdx.x; base < t.n; base += kAhead * kRowThreads) {
    float v[kAhead], other[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = min(base + i * kRowThreads, t.n - 1);
      v[i] = x[at];
      if constexpr (kInput == Input::gated) other[i] = gate[at];
      if constexpr (kInput == Input::normed) other[i] = t.weight[at];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = base + i * kRowThreads;
      if (at >= t.n) break;
      if constexpr (kInput == Input::normed) raw = fmaf(v[i], v[i], raw), v[i] *= other[i];
      if constexpr (kInput == Input::gated) v[i] *= __fdividef(other[i], 1.0f + __expf(-other[i]));
      v[i] *= t.before[at];
      squares = fmaf(v[i], v[i], squares);
      row[spot(at)] = v[i];
    }
  }
  runs(row, t.n, t.w);
  const float size = sqrtf(block_total(squares)), unit = size == 0 ? 1 : size * (1.001f / kMostHalf), scale = t.norm / unit;
  __half* const high = parts + b * t.n;
  __half* const low = high + static_cast<int64_t>(gridDim.x) * t.n;
  leave(t, row, [&](int i, float v) {
    const float scaled = v * scale;
    const __half first = __float2half_rn(scaled);
    high[i] = first;
    if (exact) low[i] = __float2half_rn(scaled - __half2float(first));
  });
  // rmsnorm's factor is one of the whole row, so it can be left to the unit.
  const float factor = kInput == Input::normed ? 1.0f / sqrtf(block_total(raw) / static_cast<float>(t.n) + t.eps) : 1;
  if (threadIdx.x == 0) units[b] = unit * factor;
}

// y = (x·Hᵀ) ⊙ after + add of several outputs; x in units of each row, the sum of two where it came in parts. Grid [t, outputs].
static __global__ void __launch_bounds__(kRowThreads) coherent_rows_kernel(const RowTransforms transforms, const float* units, bool exact) {
  extern __shared__ float row[];
  constexpr int kAhead = 8;
  const RowTransform& t = transforms.of[blockIdx.y];
  const int64_t b = blockIdx.x;
  const float* const x = t.x + b * t.stride;
  const float* const rest = x + gridDim.x * t.stride;
  const float scale = units[b] * t.norm;
  for (int base = threadIdx.x; base < t.n; base += kAhead * kRowThreads) {
    float v[kAhead], low[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = min(base + i * kRowThreads, t.n - 1);
      v[i] = x[at], low[i] = exact ? rest[at] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int at = base + i * kRowThreads;
      if (at < t.n) row[spot(at)] = (v[i] + low[i]) * scale;
    }
  }
  runs(row, t.n, t.w);
  const int64_t place = b * t.n;
  leave(t, row, [&](int i, float v) {
    const float scaled = t.after ? v * t.after[i] : v;
    t.y[place + i] = t.add ? scaled + t.add[place + i] : scaled;
  });
}

}  // namespace ops::product
