// defines: enqueue_row, enqueue_finish_rows: what runs_kernel.cuh does before, between and after products, of a row that one block can hold whole:
// n and H's order one power of two.
//
// A thread has 16 numbers and makes four of H's stages in registers; between fours they go through shared memory. What a register stands for goes
// round:
//
//   edges   bits 0, 1 and the two highest of a place in the row: four times four neighbours, as rows are read
//   low     bits 2 … 5; a warp has the same places as before
//   high    the next four, lanes side by side: as vectors of the model are read and finished outputs written
//
// Four blocks have a row. An H whose numbers all go through another one is made by each of them, whole; of the last H each makes its fourth alone:
// two stages are then three additions for four numbers, and of the others a fourth is left, one number after registers for lanes and warps to go
// on with where there were four. What bounds is instructions: one block for a row had 1500 a warp, this has 1000, 460 to begin, 240 to finish.
//
// 4 of 132 multiprocessors are left beside a product of 128 blocks, so this kernel is there and has its constants when the product ends, and all
// blocks of the next product find room beside it, where clusters of eight kept four of them waiting.
#pragma once
#include <cstdint>
#include <type_traits>

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
  static constexpr __device__ int high_of(int warp) { return (warp & ((1 << (log - 11)) - 1)) * 32 + (warp >> (log - 11)) * (n / 4); }
  static __device__ int high() { return threadIdx.x % 32 + high_of(threadIdx.x / 32); }
  // In high the four neighbours of a lane, from its warp's first place on: four lanes' of one register.
  static __device__ int four_of(int lane) { return lane % 8 * 4 + lane / 8 * high_bit; }
  static constexpr int edge_bit = n / 4, low_bit = 4, high_bit = 1 << (log - 6);
  static constexpr int highest = log < 12 ? 1 << (12 - log) : 1;  // the first bit of a register in `high` that is none of `low`
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

// z, as its edges, times Hᵀ√n, as high. floats: shared, Row::room of them.
template <int kLog>
__device__ void back(float (&v)[16], float* floats) {
  using R = Row<kLog>;
  float* const edge = floats + R::spot(R::edge());
  float* const low = floats + R::spot(R::low());
  float* const high = floats + R::spot(R::high());
  butterflies<1>(v);
#pragma unroll
  for (int j = 0; j < 4; ++j) *reinterpret_cast<float4*>(edge + R::spot(j * R::edge_bit)) = make_float4(v[4 * j], v[4 * j + 1], v[4 * j + 2], v[4 * j + 3]);
  __syncwarp();
#pragma unroll
  for (int r = 0; r < 16; ++r) v[r] = low[R::spot(r * R::low_bit)];
  butterflies<1>(v);
  if constexpr (kLog == 13) {  // bit 6 is in no register: lanes 16 apart
    const float sign = threadIdx.x & 16 ? -1.0f : 1.0f;
#pragma unroll
    for (int r = 0; r < 16; ++r) v[r] = fmaf(sign, v[r], __shfl_xor_sync(~0u, v[r], 16));
  }
#pragma unroll
  for (int r = 0; r < 16; ++r) low[R::spot(r * R::low_bit)] = v[r];
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 16; ++r) v[r] = high[R::spot(r * R::high_bit)];
  butterflies<R::highest>(v);
}

// A fourth of H along the bits of registers and of lanes: of 16 numbers a thread keeps four.
__device__ inline void own_fourth(const float (&v)[16], float (&w)[4]) {
  const float one = blockIdx.x & 1 ? -1.0f : 1.0f, two = blockIdx.x & 2 ? -1.0f : 1.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = fmaf(two, fmaf(one, v[12 + i], v[8 + i]), fmaf(one, v[4 + i], v[i]));
  const float a = w[0] + w[1], b = w[0] - w[1], c = w[2] + w[3], d = w[2] - w[3];
  w[0] = a + c, w[1] = b + d, w[2] = a - c, w[3] = b - d;
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) {
    const float sign = threadIdx.x & mask ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = fmaf(sign, w[i], __shfl_xor_sync(~0u, w[i], mask));
  }
}
// And along those of warps, of what each has left in shared memory. at: where this lane's four neighbours of a warp's are.
__device__ inline void along_warps(float (&w)[4], auto warps, const auto& at) {
  const int warp = threadIdx.x / 32;
  w[0] = w[1] = w[2] = w[3] = 0;
#pragma unroll 8
  for (int other = 0; other < warps; ++other) {
    const float4 o = four(at(other));
    const float sign = __popc(warp & other) & 1 ? -1.0f : 1.0f;
    w[0] = fmaf(sign, o.x, w[0]), w[1] = fmaf(sign, o.y, w[1]), w[2] = fmaf(sign, o.z, w[2]), w[3] = fmaf(sign, o.w, w[3]);
  }
}

// A vector's edges. As in all of these: asked once whether it is there, not at every number: loads behind branches wait for each other.
__device__ inline void read_edges(const float* from, int n, float (&to)[16], float otherwise) {
#pragma unroll
  for (int r = 0; r < 16; ++r) to[r] = otherwise;
  if (!from) return;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const Several<4> in = columns<4, true>(from + 4 * threadIdx.x + j * (n / 4));
#pragma unroll
    for (int i = 0; i < 4; ++i) to[4 * j + i] = in.of[i];
  }
}
template <int kLog>
__device__ void read_high(const float* from, float (&to)[16], float otherwise) {
#pragma unroll
  for (int r = 0; r < 16; ++r) to[r] = otherwise;
  if (!from) return;
#pragma unroll
  for (int r = 0; r < 16; ++r) to[r] = __ldcg(from + Row<kLog>::high() + r * Row<kLog>::high_bit);
}

// Four neighbours of x̃√n, the first at `place`, as digits; and the sum of this block's, in pieces. of_warps: shared, every warp's Σu² and Σx².
__device__ inline void leave_digits(const Digits& to, float (&w)[4], int row, int n, int place, auto warps, const float2* of_warps, float* of_digits) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float2 sums{};
#pragma unroll 8
  for (int i = 0; i < warps; ++i) sums.x += of_warps[i].x, sums.y += of_warps[i].y;
  const float scale = inverse_unit(to, sums);
  for (float& each : w) each *= scale;
  float sum = write_digits(to, to.parts + static_cast<int64_t>(row) * n * (to.bytes ? 3 : 4), n, place, w);
  const int slots = row_slots(warps);
  float* const units = to.units + static_cast<int64_t>(row) * (1 + slots);
  if (blockIdx.x == 0 && threadIdx.x == 0) units[0] = unit_worth(to, sums, n);
  if (!to.bytes) return;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (slots == kFourths * warps) {
    if (lane == 0) units[1 + blockIdx.x * warps + warp] = sum;
    return;
  }
  if (lane == 0) of_digits[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  sum = lane < warps ? of_digits[lane] : 0;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) units[1 + blockIdx.x] = sum;
}

// u = x ⊙ su ⊙ weight. Gives Σu² and Σx² of a warp.
__device__ inline float2 scaled(float (&v)[16], const float (&both)[16]) {
  float2 sums{};
#pragma unroll
  for (int r = 0; r < 16; ++r) {
    sums.y = fmaf(v[r], v[r], sums.y);
    v[r] *= both[r];
    sums.x = fmaf(v[r], v[r], sums.x);
  }
  return warp_sums(sums);
}
// A product of constants made here, and not, as the compiler would, where it is wanted: after the wait.
__device__ inline void multiply_now(float& a, float b) {
  a *= b;
  asm volatile("" : "+f"(a));
}

// In how many warps a row is; as a constant where its length is one.
template <int kLog>
__device__ auto warps_of(int n) {
  if constexpr (kLog == 0) return n / 512;
  else return std::integral_constant<int, (1 << kLog) / 512>{};
}

// Grid [4, t]: of what the product before left, finished first.
template <int kLog>
__global__ void __launch_bounds__(Row<kLog>::threads, kLog < 13 ? 2 : 1) between_row_kernel(const __grid_constant__ Chain c) {
  using R = Row<kLog>;
  __shared__ __align__(16) float floats[R::room];
  __shared__ float2 of_warps[R::warps];
  __shared__ float of_digits[R::warps];
  const int row = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = static_cast<int64_t>(row) * R::n;
  float sv[16], bias[16], su[16], weight[16], v[16], add[16], w[4];
  read_high<kLog>(c.of[0].sv, sv, 1), read_high<kLog>(c.of[0].bias, bias, 0), read_high<kLog>(c.su, su, 1), read_high<kLog>(c.weight, weight, 1);
#pragma unroll
  for (int r = 0; r < 16; ++r) multiply_now(sv[r], c.of[0].norm), multiply_now(su[r], weight[r]);
  // A product with a table to fill wants to begin early, but the weights that it fetches are in the way of what is read here.
  wait_for_previous();
  let_next_begin();
  read_edges(c.of[0].z + row * c.of[0].stride, R::n, v, 0);
  read_high<kLog>(c.of[0].add ? c.of[0].add + first : nullptr, add, 0);
  back<kLog>(v, floats);
  if (c.of[0].bias) {
#pragma unroll
    for (int r = 0; r < 16; ++r) add[r] += bias[r];
  }
#pragma unroll
  for (int r = 0; r < 16; ++r) v[r] = fmaf(v[r], sv[r], add[r]);
  // This block's fourth of the finished row, left when nobody waits for it.
  float kept[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) kept[i] = blockIdx.x & 2 ? (blockIdx.x & 1 ? v[12 + i] : v[8 + i]) : (blockIdx.x & 1 ? v[4 + i] : v[i]);
  const float2 sums = scaled(v, su);
  if (lane == 0) of_warps[warp] = sums;
  own_fourth(v, w);
  // Into places that no other thread has read.
  float* const mine = floats + R::spot(R::high());
#pragma unroll
  for (int i = 0; i < 4; ++i) mine[R::spot(i * R::high_bit)] = w[i];
  __syncthreads();
  const float* const from = floats + R::spot(R::four_of(lane));
  constexpr std::integral_constant<int, R::warps> warps;
  along_warps(w, warps, [&](int other) { return from + R::spot(R::high_of(other)); });
  const int place = R::high_of(warp) + R::four_of(lane) + static_cast<int>(blockIdx.x) * 4 * R::high_bit;
  leave_digits(c.to, w, row, R::n, place, warps, of_warps, of_digits);
  if (c.of[0].y) {
    float* const y = c.of[0].y + first + R::high() + blockIdx.x * 4 * R::high_bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i * R::high_bit] = kept[i];
  }
}

// Grid [4, t]: of x, n/16 threads; shared memory: 128 numbers a warp. kLog: of n, or 0 for any.
template <int kLog>
__global__ void __launch_bounds__(512) begin_row_kernel(const __grid_constant__ Chain c) {
  extern __shared__ __align__(16) float exchange[];
  __shared__ float2 of_warps[16];
  __shared__ float of_digits[16];
  const int row = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = kLog ? 1 << kLog : c.n;
  float su[16], weight[16], v[16], w[4];
  read_edges(c.su, n, su, 1), read_edges(c.weight, n, weight, 1);
  // Whoever follows waits, too, before it reads more than constants. This reads little, so the weights that a product fetches are not in its way.
  if (!c.to.bytes) let_next_begin();
  wait_for_previous();
  if (c.to.bytes) let_next_begin();
  read_edges(c.of[0].x + static_cast<int64_t>(row) * n, n, v, 0);
#pragma unroll
  for (int r = 0; r < 16; ++r) su[r] *= weight[r];
  const float2 sums = scaled(v, su);
  if (lane == 0) of_warps[warp] = sums;
  own_fourth(v, w);
  *reinterpret_cast<float4*>(exchange + 4 * threadIdx.x) = make_float4(w[0], w[1], w[2], w[3]);
  __syncthreads();
  const auto warps = warps_of<kLog>(n);
  along_warps(w, warps, [&](int other) { return exchange + other * 128 + 4 * lane; });
  leave_digits(c.to, w, row, n, blockIdx.x * (n / 4) + 4 * threadIdx.x, warps, of_warps, of_digits);
}

// Grid [4, t, chains]: outputs that somebody else reads; n/16 threads of each, shared memory and kLog as above. Norms of heads where kLog is 0.
template <int kLog>
__global__ void __launch_bounds__(512) finish_row_kernel(const __grid_constant__ Chains chains) {
  extern __shared__ __align__(16) float exchange[];
  const Chain& c = chains.of[blockIdx.z];
  const Source& of = c.of[0];
  const int row = blockIdx.y, n = kLog ? 1 << kLog : c.n, at = blockIdx.x * (n / 4) + 4 * threadIdx.x;
  if (static_cast<int>(threadIdx.x) >= n / 16) return;  // whole warps, of a longer chain
  const int64_t first = static_cast<int64_t>(row) * n + at;
  const auto neighbours = [&](const float* from) { return from ? columns<4, true>(from) : Several<4>{}; };
  const Several<4> sv = neighbours(of.sv + at), bias = neighbours(of.bias ? of.bias + at : nullptr);
  const float4 weight = kLog == 0 && c.weight ? four(c.weight + at % c.head) : float4{};
  let_next_begin();
  wait_for_previous();
  float v[16], w[4];
  read_edges(of.z + row * of.stride, n, v, 0);
  const Several<4> add = neighbours(of.add ? of.add + first : nullptr);
  own_fourth(v, w);
  *reinterpret_cast<float4*>(exchange + 4 * threadIdx.x) = make_float4(w[0], w[1], w[2], w[3]);
  __syncthreads();
  along_warps(w, warps_of<kLog>(n), [&](int other) { return exchange + other * 128 + 4 * (threadIdx.x % 32); });
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = fmaf(w[i] * of.norm, sv.of[i], bias.of[i] + add.of[i]);
  if (kLog == 0 && c.weight) norm_heads(w, weight, c.head, c.to.eps);
  *reinterpret_cast<float4*>(of.y + first) = make_float4(w[0], w[1], w[2], w[3]);
}

inline cudaError_t enqueue_row(const Chain& c, bool finish, int64_t t, cudaStream_t stream) {
  const dim3 grid(kFourths, static_cast<unsigned>(t));
  const auto begin = c.n == 2048 ? begin_row_kernel<11> : c.n == 4096 ? begin_row_kernel<12> : c.n == 8192 ? begin_row_kernel<13> : begin_row_kernel<0>;
  const auto between = c.n == 2048 ? between_row_kernel<11> : c.n == 4096 ? between_row_kernel<12> : between_row_kernel<13>;
  return ops::launch(finish ? between : begin, grid, c.n / 16, finish ? 0 : c.n, stream, true, c);
}

inline cudaError_t enqueue_finish_rows(const Chains& chains, int count, int64_t t, cudaStream_t stream) {
  int n = 0;
  bool same = true;
  for (int i = 0; i < count; ++i) {
    const Chain& c = chains.of[i];
    n = std::max(n, c.n), same = same && c.n == chains.of[0].n && !c.weight;
  }
  const auto kernel = same && n == 4096 ? finish_row_kernel<12> : same && n == 8192 ? finish_row_kernel<13> : finish_row_kernel<0>;
  return ops::launch(kernel, dim3(kFourths, static_cast<unsigned>(t), count), n / 16, n, stream, true, chains);
}

}  // namespace ops::product
