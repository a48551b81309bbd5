// defines: ops::mirror_upper, the op mirror for other ops' matrices too.
#pragma once
#include "../../core/cuda.cuh"

namespace ops {

constexpr int kMirrorTile = 32, kMirrorRows = 8;

// A tile on or above the diagonal and its mirror image a block.
template <class T>
__global__ void mirror_kernel(T* h, int64_t n, T factor) {
  __shared__ T tile[kMirrorTile][kMirrorTile + 1];
  const int64_t i0 = static_cast<int64_t>(blockIdx.y) * kMirrorTile, j0 = static_cast<int64_t>(blockIdx.x) * kMirrorTile;
  if (j0 < i0) return;
  for (int r = threadIdx.y; r < kMirrorTile; r += kMirrorRows) {
    const int64_t i = i0 + r, j = j0 + threadIdx.x;
    if (i < n && j < n && i <= j) tile[r][threadIdx.x] = h[i * n + j] = factor * h[i * n + j];
  }
  __syncthreads();
  for (int r = threadIdx.y; r < kMirrorTile; r += kMirrorRows) {
    const int64_t j = j0 + r, i = i0 + threadIdx.x;
    if (j < n && i < j) h[j * n + i] = tile[threadIdx.x][r];
  }
}

// h[i, j] = factor · h[i, j] for i ≤ j, and h[j, i] the same.
template <class T>
void mirror_upper(T* h, int64_t n, T factor) {
  if (n == 0) return;
  const unsigned tiles = (n + kMirrorTile - 1) / kMirrorTile;
  mirror_kernel<<<dim3(tiles, tiles), dim3(kMirrorTile, kMirrorRows), 0, stream()>>>(h, n, factor);
  launched();
}

}  // namespace ops
