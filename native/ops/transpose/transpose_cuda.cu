#include "transpose.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

constexpr int kTile = 32, kRows = 8;  // a block's threads: 32 × 8

template <class T>
__global__ void transpose_kernel(const T* x, T* out, int64_t m, int64_t n, int64_t across) {
  __shared__ T tile[kTile][kTile + 1];  // + 1: columns lie in different banks
  const int64_t i0 = blockIdx.x / across * kTile, j0 = blockIdx.x % across * kTile;
  for (int r = threadIdx.y; r < kTile; r += kRows) {
    if (i0 + r < m && j0 + threadIdx.x < n) tile[r][threadIdx.x] = x[(i0 + r) * n + j0 + threadIdx.x];
  }
  __syncthreads();
  for (int r = threadIdx.y; r < kTile; r += kRows) {
    if (j0 + r < n && i0 + threadIdx.x < m) out[(j0 + r) * m + i0 + threadIdx.x] = tile[threadIdx.x][r];
  }
}

template <class T>
void transpose(const TransposeArgs& args) {
  const int64_t down = (args.m + kTile - 1) / kTile, across = (args.n + kTile - 1) / kTile;
  if (down * across == 0) return;
  transpose_kernel<<<down * across, dim3(kTile, kRows), 0, stream()>>>(reinterpret_cast<const T*>(args.x), reinterpret_cast<T*>(args.out),
                                                                       args.m, args.n, across);
  launched();
}

}  // namespace

void transpose(const TransposeArgs& args) {
  switch (args.size) {
    case 1: return transpose<uint8_t>(args);
    case 2: return transpose<uint16_t>(args);
    case 4: return transpose<uint32_t>(args);
    case 8: return transpose<uint64_t>(args);
    default: fail("elements have %ld bytes; 1, 2, 4 and 8 are known", static_cast<long>(args.size));
  }
}

}  // namespace ops
