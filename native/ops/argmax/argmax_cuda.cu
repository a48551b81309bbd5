#include "argmax.h"

#include "../../core/cluster.cuh"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

// A row is a step of decoding, so as many threads as may be look at it, each at several elements ahead of what it compares.
constexpr int kCluster = 8, kWide = 512, kAhead = 8;

// Larger where the value is, and of equal values where the index is less; 0: NaN, or none yet.
__device__ inline uint64_t key_of(float value, int64_t index) {
  if (isnan(value)) return 0;
  const uint32_t bits = __float_as_uint(value + 0.f);  // one zero
  return static_cast<uint64_t>(bits >> 31 ? ~bits : bits | 0x80000000) << 32 | ~static_cast<uint32_t>(index);
}

__device__ inline uint64_t most_of_lanes(uint64_t key) {
  for (int offset = 16; offset > 0; offset /= 2) key = max(key, __shfl_xor_sync(~0u, key, offset));
  return key;
}

// A cluster of blocks a row.
__global__ void __launch_bounds__(kWide) argmax_kernel(ArgmaxArgs args) {
  wait_for_previous();
  let_next_begin();
  __shared__ uint64_t of_warps[kWide / 32];
  __shared__ float of_blocks[kCluster][2];
  cluster_arrive();
  const float* row = args.x + blockIdx.y * args.v;
  const int64_t across = static_cast<int64_t>(gridDim.x) * kWide;
  uint64_t best = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kWide + threadIdx.x; first < args.v; first += across * kAhead) {
    float values[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) values[u] = first + u * across < args.v ? row[first + u * across] : NAN;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) best = max(best, key_of(values[u], first + u * across));
  }
  best = most_of_lanes(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  cluster_wait();  // the first block runs, and can be written to
  if (threadIdx.x < 32) best = most_of_lanes(threadIdx.x < kWide / 32 ? of_warps[threadIdx.x] : 0);
  if (gridDim.x > 1) {
    if (threadIdx.x < 2) push(place_at(&of_blocks[blockIdx.x][threadIdx.x], 0), __uint_as_float(static_cast<uint32_t>(best >> 32 * threadIdx.x)));
    cluster_arrive();
    cluster_wait();
    if (blockIdx.x > 0) return;
    for (int block = 0; block < kCluster; ++block)
      best = max(best, static_cast<uint64_t>(__float_as_uint(of_blocks[block][1])) << 32 | __float_as_uint(of_blocks[block][0]));
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) args.out[blockIdx.y] = best == 0 ? 0 : static_cast<int32_t>(~static_cast<uint32_t>(best));
}

}  // namespace

void argmax(const ArgmaxArgs& args) {
  for (int64_t from = 0; from < args.t; from += 65535) {
    const ArgmaxArgs part{args.x + from * args.v, args.out + from, std::min<int64_t>(65535, args.t - from), args.v};
    const dim3 grid(card_overlaps() && args.v > kWide ? kCluster : 1, static_cast<unsigned>(part.t));
    check(grid.x > 1 ? launch_clusters(argmax_kernel, grid, kWide, 0, stream(), true, kCluster, part)
                     : launch(argmax_kernel, grid, kWide, 0, stream(), card_overlaps(), part));
  }
}

}  // namespace ops
