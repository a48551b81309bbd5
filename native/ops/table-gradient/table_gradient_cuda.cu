#include "table_gradient.h"

#include "../../core/cuda.cuh"

namespace ops {

namespace {

using Sum = unsigned long long;  // two's complement: negative numbers wrap as they should
constexpr unsigned kInfinite = 0x7f800000;

// *most = the bits of the largest |x|, which are in the order of the numbers; NaN is above infinity.
__global__ void __launch_bounds__(kThreads) largest_kernel(const float* x, int64_t n, unsigned* most) {
  unsigned bits = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    bits = max(bits, __float_as_uint(x[i]) & 0x7fffffffu);
  }
  bits = block_max(bits);
  if (threadIdx.x == 0) atomicMax(most, bits);
}

// Numbers times this are whole enough: n of them, none above `most`, stay below 2⁶².
__device__ double fixed_point(unsigned most, int64_t n) {
  const int exponent = static_cast<int>(most >> 23) - 126;  // |x| < 2^exponent
  return ldexp(1.0, 62 - exponent - (64 - __clzll(n)));
}

// SHARED: a block adds up in shared memory first.
template <bool SHARED>
__global__ void __launch_bounds__(kThreads) table_gradient_kernel(TableGradientArgs a, int64_t across, int64_t tiles, const unsigned* most, unsigned* bad,
                                                                     Sum* total) {
  extern __shared__ Sum block_sums[];
  const int64_t entries = a.rows * a.V;
  Sum* const sums = SHARED ? block_sums : total;
  const unsigned largest = *most;
  if (largest >= kInfinite) return;
  const double scale = fixed_point(largest, a.m * a.n);
  if (SHARED) {
    for (int64_t e = threadIdx.x; e < entries; e += kThreads) sums[e] = 0;
    __syncthreads();
  }
  // One thread a weight of the padded matrix, tile by tile.
  const int64_t size = a.Tx * a.Ty;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < tiles * size; at += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t tile = at / size, e = at % size, p = a.order ? a.order[e] : e, code = a.codes[tile * (size / a.V) + p / a.V];
    const int32_t index = code < a.states ? a.index[code] : 0;
    const int64_t row = index & 0xffff, i = tile / across * a.Tx + e / a.Ty, j = tile % across * a.Ty + e % a.Ty;
    if (code >= a.states || row >= a.rows) {
      atomicMax(bad, kInfinite);
    } else if (i < a.m && j < a.n) {
      const long long slope = llrint(scale * a.d_values[i * a.n + j]);
      atomicAdd(sums + row * a.V + p % a.V, static_cast<Sum>(p % a.V == 0 && index >> 16 ? -slope : slope));
    }
  }
  if (!SHARED) return;
  __syncthreads();
  for (int64_t e = threadIdx.x; e < entries; e += kThreads) {
    if (sums[e] != 0) atomicAdd(total + e, sums[e]);
  }
}

}  // namespace

void table_gradient(const TableGradientArgs& a) {
  const int64_t across = (a.n + a.Ty - 1) / a.Ty, tiles = (a.m + a.Tx - 1) / a.Tx * across, entries = a.rows * a.V;
  if (tiles == 0) return;
  Scratch<unsigned> scratch(2);
  Scratch<Sum> sums(entries);
  unsigned *const most = scratch, *const bad = most + 1;
  Sum* const total = sums;
  check(cudaMemsetAsync(most, 0, 2 * sizeof *most, stream()));
  check(cudaMemsetAsync(total, 0, entries * sizeof(Sum), stream()));
  const int blocks = std::min(blocks_for(tiles * a.Tx * a.Ty), 8 * multiprocessors());
  largest_kernel<<<blocks, kThreads, 0, stream()>>>(a.d_values, a.m * a.n, most);
  launched();
  const size_t bytes = entries * sizeof(Sum);
  if (bytes <= 48 << 10) {
    table_gradient_kernel<true><<<blocks, kThreads, bytes, stream()>>>(a, across, tiles, most, bad, total);
  } else {
    table_gradient_kernel<false><<<blocks, kThreads, 0, stream()>>>(a, across, tiles, most, bad, total);
  }
  launched();
  each(entries, [a, most, bad, total] __device__(int64_t e) {
    const double sum = static_cast<double>(static_cast<long long>(total[e])) / fixed_point(*most, a.m * a.n);
    a.into[e] = *most >= kInfinite || *bad ? NAN : static_cast<float>(a.into[e] + sum);
  });
}

}  // namespace ops
