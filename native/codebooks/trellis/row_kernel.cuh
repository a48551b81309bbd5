// defines: row_kernel: what runs_kernel.cuh does between two products, of a row that one block can hold whole: n and H's order one power of two.
//
// A thread has 16 numbers and makes four of H's stages in registers; between fours they go through shared memory. What a register stands for goes
// round, and so back, with one barrier of the block for each H:
//
//   edges   bits 0, 1 and the two highest of a place in the row: four times four neighbours, as they are read and as digits are written
//   low     bits 2 … 5; a warp has the same places as before
//   high    the next four, lanes side by side: as vectors of the model are read and finished outputs written
//
// One block in place of clusters: 4 of 132 multiprocessors are left beside a product of 128 blocks, so this kernel is there and has its constants
// when the product ends, and all blocks of the next product find room beside it, where clusters of eight kept four of them waiting.
#pragma once
#include <cstdint>

#include "runs_steps.cuh"

namespace ops::product {

template <int kLog>
struct Row {
  static constexpr int log = kLog, n = 1 << log, threads = n / 16, warps = threads / 32;
  static constexpr int quarter = n / 4 / 128 * 160 + 4, room = 4 * quarter;  // in shared memory
  // Where a place is: no two lanes meet in a bank, in any of the three, and fours stay together. A sum over the bits of i.
  static constexpr __host__ __device__ int spot(int i) { return (i & 63) + (i >> 6 & (n / 256 - 1)) * 80 + (i >> (log - 2)) * quarter; }
  // The place of register 0; of register r that of `*_bit`s more. Edges: of a four.
  static __device__ int edge() { return 4 * threadIdx.x; }
  static __device__ int low() {
    const int lane = threadIdx.x % 32;
    return (lane & 3) + (lane >> 4) * 64 + (threadIdx.x / 32) * 128 + (lane >> 2 & 3) * (n / 4);
  }
  static __device__ int high() {
    const int warp = threadIdx.x / 32, rest = log - 11;
    return threadIdx.x % 32 + (warp & ((1 << rest) - 1)) * 32 + (warp >> rest) * (n / 4);
  }
  static constexpr int edge_bit = n / 4, low_bit = 4, high_bit = 1 << (log - 6);
  static constexpr int highest = 1 << (12 - log);  // the first bit of a register in `high` that is none of `low`
};

template <int from>
__device__ void butterflies(float (&v)[16]) {
#pragma unroll
  for (int s = from; s < 16; s *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i & s) continue;
      const float a = v[i], b = v[i + s];
      v[i] = a + b, v[i + s] = a - b;
    }
  }
}

template <int kLog, bool finish, End end>
__device__ void make_row(const Chain& c) {
  using R = Row<kLog>;
  __shared__ __align__(16) float floats[R::room];
  __shared__ float2 of_warps[R::warps];
  const int row = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = static_cast<int64_t>(row) * R::n;
  const int edge = R::spot(R::edge()), low = R::spot(R::low()), high = R::spot(R::high());  // in floats
  const auto at_edge = [&](int j) { return floats + edge + R::spot(j * R::edge_bit); };
  const auto at_low = [&](int r) -> float& { return floats[low + R::spot(r * R::low_bit)]; };
  const auto at_high = [&](int r) -> float& { return floats[high + R::spot(r * R::high_bit)]; };
  const auto place = [&](int r) { return R::high() + r * R::high_bit; };
  const auto vector = [&](const float* from, float (&to)[16], float otherwise) {
#pragma unroll
    for (int r = 0; r < 16; ++r) to[r] = otherwise;
    if (!from) return;  // not asked at every number: loads behind branches wait for each other
#pragma unroll
    for (int r = 0; r < 16; ++r) to[r] = __ldcg(from + place(r));
  };
  float sv[16], bias[16], su[16], weight[16];
  if constexpr (finish) vector(c.of[0].sv, sv, 1), vector(c.of[0].bias, bias, 0);
  if constexpr (end == End::digits) vector(c.su, su, 1), vector(c.weight, weight, 1);
  // Whoever follows waits, too, before it reads more than constants. A product with a table to fill wants to begin early, but the weights that it
  // fetches are in the way of what is read here: early is only what reads little.
  const bool early = end == End::finished || (!finish && !c.to.bytes);
  if (early) let_next_begin();
  wait_for_previous();
  if (!early) let_next_begin();

  float v[16];
  if constexpr (finish) {
    const float* const z = c.of[0].z + row * c.of[0].stride;
    float add[16];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Several<4> in = columns<4, true>(z + R::edge() + j * R::edge_bit);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[4 * j + i] = in.of[i];
    }
    vector(c.of[0].add ? c.of[0].add + first : nullptr, add, 0);
    butterflies<1>(v);
#pragma unroll
    for (int j = 0; j < 4; ++j) *reinterpret_cast<float4*>(at_edge(j)) = make_float4(v[4 * j], v[4 * j + 1], v[4 * j + 2], v[4 * j + 3]);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 16; ++r) v[r] = at_low(r);
    butterflies<1>(v);
#pragma unroll
    for (int r = 0; r < 16; ++r) at_low(r) = v[r];
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 16; ++r) v[r] = at_high(r);
    butterflies<R::highest>(v);
    const float norm = c.of[0].norm;
#pragma unroll
    for (int r = 0; r < 16; ++r) v[r] = fmaf(v[r] * norm, sv[r], bias[r] + add[r]);
    if (c.of[0].y) {
#pragma unroll
      for (int r = 0; r < 16; ++r) c.of[0].y[first + place(r)] = v[r];
    }
  } else {
    vector(c.of[0].x + first, v, 0);
  }

  if constexpr (end == End::digits) {
    float2 sums{};
#pragma unroll
    for (int r = 0; r < 16; ++r) {
      sums.y = fmaf(v[r], v[r], sums.y);
      v[r] *= su[r] * weight[r];
      sums.x = fmaf(v[r], v[r], sums.x);
    }
    butterflies<R::highest>(v);
#pragma unroll
    for (int r = 0; r < 16; ++r) at_high(r) = v[r];
    sums = warp_sums(sums);
    if (lane == 0) of_warps[warp] = sums;
    __syncthreads();
    sums = {};
#pragma unroll
    for (int i = 0; i < R::warps; ++i) sums.x += of_warps[i].x, sums.y += of_warps[i].y;
#pragma unroll
    for (int r = 0; r < 16; ++r) v[r] = at_low(r);
    butterflies<1>(v);
#pragma unroll
    for (int r = 0; r < 16; ++r) at_low(r) = v[r];
    __syncwarp();
    const float scale = inverse_unit(c.to, sums);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float4 in = four(at_edge(j));
      v[4 * j] = in.x, v[4 * j + 1] = in.y, v[4 * j + 2] = in.z, v[4 * j + 3] = in.w;
    }
    butterflies<1>(v);
    unsigned char* const digits = c.to.parts + first * (c.to.bytes ? 3 : 4);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float scaled[4] = {v[4 * j] * scale, v[4 * j + 1] * scale, v[4 * j + 2] * scale, v[4 * j + 3] * scale};
      sum += write_digits(c.to, digits, R::n, R::edge() + j * R::edge_bit, scaled);
    }
    float* const units = c.to.units + static_cast<int64_t>(row) * (1 + R::warps);
    if (c.to.bytes) {  // a piece a warp: the product adds them
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
      if (lane == 0) units[1 + warp] = sum;
    }
    if (threadIdx.x == 0) units[0] = unit_worth(c.to, sums, R::n);
  }
}

// Grid [1, t].
template <int kLog, bool finish>
__global__ void __launch_bounds__(Row<kLog>::threads, 2) row_kernel(const __grid_constant__ Chain chain) {
  make_row<kLog, finish, End::digits>(chain);
}
// Grid [1, t, chains]: outputs that somebody else reads.
template <int kLog>
__global__ void __launch_bounds__(Row<kLog>::threads, 2) finish_row_kernel(const __grid_constant__ Chains chains) {
  make_row<kLog, true, End::finished>(chains.of[blockIdx.z]);
}

// f of the logarithm of a row's length as a constant.
cudaError_t for_row(int n, auto f) {
  return n == 2048 ? f(std::integral_constant<int, 11>{}) : f(std::integral_constant<int, 12>{});
}

inline cudaError_t enqueue_row(const Chain& c, bool finish, int64_t t, cudaStream_t stream) {
  return for_row(c.n, [&]<int kLog>(std::integral_constant<int, kLog>) {
    const auto kernel = finish ? row_kernel<kLog, true> : row_kernel<kLog, false>;
    return ops::launch(kernel, dim3(1, static_cast<unsigned>(t)), Row<kLog>::threads, 0, stream, true, c);
  });
}

// Several that are finished only, all of one length.
inline cudaError_t enqueue_finish_rows(const Chains& chains, int count, int64_t t, cudaStream_t stream) {
  return for_row(chains.of[0].n, [&]<int kLog>(std::integral_constant<int, kLog>) {
    return ops::launch(finish_row_kernel<kLog>, dim3(1, static_cast<unsigned>(t), count), Row<kLog>::threads, 0, stream, true, chains);
  });
}

}  // namespace ops::product
