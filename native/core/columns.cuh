// defines: ops::add_column_sums, sums down the columns of a matrix in a fixed order; columns.h on the CPU.
#pragma once
#include "cuda.cuh"

namespace ops {

constexpr int kColumnPieces = 64, kColumnLanes = 32, kColumnRows = 8;

// A block sums every 64th group of eight rows of 32 columns.
template <class F>
__global__ void __launch_bounds__(kColumnLanes* kColumnRows) column_sums_kernel(int64_t t, int64_t n, F term, float* partial) {
  __shared__ float sums[kColumnRows][kColumnLanes];
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kColumnLanes + threadIdx.x;
  float sum = 0;
  if (j < n) {
    for (int64_t i = blockIdx.y * kColumnRows + threadIdx.y; i < t; i += kColumnPieces * kColumnRows) sum += term(i, j);
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || j >= n) return;
  for (int row = 1; row < kColumnRows; ++row) sum += sums[row][threadIdx.x];
  partial[blockIdx.y * n + j] = sum;
}

// into[j] += Σ_t term(t, j), j < n: term a __device__ lambda that captures by value.
template <class F>
void add_column_sums(int64_t t, int64_t n, float* into, F term) {
  if (t == 0 || n == 0) return;
  Scratch<float> partial(kColumnPieces * n);
  const dim3 grid(static_cast<unsigned>((n + kColumnLanes - 1) / kColumnLanes), kColumnPieces);
  column_sums_kernel<<<grid, dim3(kColumnLanes, kColumnRows), 0, stream()>>>(t, n, term, partial);
  launched();
  float* const sums = partial;
  each(n, [sums, into, n] __device__(int64_t j) {
    double sum = into[j];
    for (int piece = 0; piece < kColumnPieces; ++piece) sum += sums[piece * n + j];
    into[j] = static_cast<float>(sum);
  });
}

}  // namespace ops
