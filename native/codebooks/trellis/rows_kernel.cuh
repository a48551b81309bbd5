// defines: rows_kernel: chain_kernel's work up to v where runs are short, there are more than 64 of them, and several rows: up to eight at a time.
//
// chain_kernel takes a row a cluster; with eight rows of 11008 that is 704 blocks, which wait for each other's room and each read Y. Here warps
// take rows where they took parts of the sum: Y is read once, and no sums meet in shared memory.
#pragma once
#include "runs_kernel.cuh"

namespace ops::product {

constexpr int kRowsTogether = 8;

template <int W>
struct Rows {
  using S = Shape<W>;
  static constexpr int most_steps = W == 64 ? 12 : 8, runs = 2;  // steps of 16 runs; runs of a block
  static constexpr int threads_of_row = runs * S::quads;
  static bool fits(const Plan& plan) { return !plan.all && plan.share == runs && plan.cut.steps() <= most_steps; }
};

// Grid [clusters · 8, rows in eights], of N inputs that are not finished.
template <int W, int N>
__global__ void __launch_bounds__(kMostThreads) rows_kernel(const __grid_constant__ Chain c, int t) {
#if __CUDA_ARCH__ >= 900
  using S = Shape<W>;
  constexpr int V = S::vector, kSteps = Rows<W>::most_steps, share = Rows<W>::runs;
  __shared__ __align__(16) float floats[N][kRowsTogether][share * W];
  __shared__ uint4 y[kSteps * 32];
  __shared__ Inbox inbox;
  const int rank = blockIdx.x % kCluster, cluster = blockIdx.x / kCluster, first_row = blockIdx.y * kRowsTogether, rows = min(kRowsTogether, t - first_row);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) inbox.open();
  __syncwarp();
  if (threadIdx.x == 0) inbox.expect(N * rows * share * W * 4);
  __syncwarp();
  cluster_begin();

  // As one of those who make runs: four numbers of one, of one row.
  const int row = threadIdx.x / Rows<W>::threads_of_row, local = threadIdx.x % Rows<W>::threads_of_row / S::quads, quad = threadIdx.x % S::quads;
  const int run = (cluster * kCluster + rank) * share + local, at = run * W + 4 * quad;
  const bool active = row < rows && run < c.runs;
  float4 sv[N], bias[N], su = {1, 1, 1, 1}, weight = {1, 1, 1, 1};
#pragma unroll
  for (int n = 0; n < N; ++n) {
    sv[n] = {1, 1, 1, 1}, bias[n] = {};
    if (active && c.of[n].sv) sv[n] = four(c.of[n].sv + at);
    if (active && c.of[n].bias) bias[n] = four(c.of[n].bias + at);
  }
  if (active && c.su) su = four(c.su + at);
  if (N == 1 && active && c.weight) weight = four(c.weight + at);

  // As one of a warp that mixes: all steps of an input of a row. Inputs have one H.
  const int which = warp % N, mixed = warp / N, steps = (c.runs + 15) / 16;
  for (int i = threadIdx.x; i < kSteps * 32; i += blockDim.x) y[i] = i < steps * 32 ? __ldg(c.of[0].mix + cluster * steps * 32 + i) : uint4{};
  __syncthreads();
  wait_for_previous();
  let_next_begin();

  const int64_t mine = static_cast<int64_t>(first_row + row) * c.n + at;
  float4 add[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    add[n] = {};
    if (active && c.of[n].add) add[n] = __ldcg(reinterpret_cast<const float4*>(c.of[n].add + mine));
  }
  float d[3][V][4] = {};
  if (mixed < rows) {
    const Source& source = c.of[N == 2 && which ? 1 : 0];
    const float* const from = source.z + (first_row + mixed) * source.stride + rank * S::columns + lane / 4 * V;
    Several<V> in[kSteps][4];
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) in[s][i] = columns<V, true>(from + min(s * 16 + lane % 4 * 2 + i % 2 + i / 2 * 8, c.runs - 1) * W);  // Y has zeros for none
    }
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint4 four_words = y[s * 32 + lane];
      const uint32_t a[4] = {four_words.x, four_words.y, four_words.z, four_words.w};
#pragma unroll
      for (int v = 0; v < V; ++v) {
        uint32_t low[3], high[3];
        thirds(in[s][0].of[v], in[s][1].of[v], low), thirds(in[s][2].of[v], in[s][3].of[v], high);
#pragma unroll
        for (int part = 0; part < 3; ++part) ops::multiply(d[part][v], a, low[part], high[part]);
      }
    }
  }
  cluster_wait();  // all blocks have begun
  if (mixed < rows) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int to = lane / 4 + half * 8, block = to / share;
      const uint32_t there = place_at(&floats[which][mixed][to % share * W + rank * S::columns + lane % 4 * 2 * V], block), their = place_at(&inbox, block);
      const auto of = [&](int i) { return d[2][i % V][half * 2 + i / V] + d[1][i % V][half * 2 + i / V] + d[0][i % V][half * 2 + i / V]; };
      if constexpr (V == 1) push(there, make_float2(of(0), of(1)), their);
      else push(there, make_float4(of(0), of(1), of(2), of(3)), their);
    }
  }
  inbox.wait();

  float v[N][4], u[1][4];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float4 r = active ? four(&floats[n][row][local * W + 4 * quad]) : float4{};
    v[n][0] = r.x, v[n][1] = r.y, v[n][2] = r.z, v[n][3] = r.w;
  }
  along<W, N>(v, nullptr, 0, quad, active);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float norm = c.of[n].norm;
    v[n][0] = fmaf(v[n][0] * norm, sv[n].x, bias[n].x + add[n].x), v[n][1] = fmaf(v[n][1] * norm, sv[n].y, bias[n].y + add[n].y);
    v[n][2] = fmaf(v[n][2] * norm, sv[n].z, bias[n].z + add[n].z), v[n][3] = fmaf(v[n][3] * norm, sv[n].w, bias[n].w + add[n].w);
    if (active && c.of[n].y) *reinterpret_cast<float4*>(c.of[n].y + mine) = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
  }
  float2 sums = scaled(v, su, weight, active, u);
  along<W, 1>(u, nullptr, 0, quad, active);
  if (active) *reinterpret_cast<float4*>(c.v + mine) = make_float4(u[0][0], u[0][1], u[0][2], u[0][3]);
  constexpr int warps = Rows<W>::threads_of_row / 32;
  sums = warp_sums(sums);
  if (lane == 0 && row < rows) c.sums[(static_cast<int64_t>(first_row + row) * gridDim.x + blockIdx.x) * warps + warp % warps] = sums;
#endif
}

template <int W>
cudaError_t enqueue_rows(const Chain& c, const Plan& plan, int inputs, int64_t t, cudaStream_t stream) {
  const dim3 grid(plan.clusters * kCluster, static_cast<unsigned>((t + kRowsTogether - 1) / kRowsTogether));
  const int threads = kRowsTogether * std::max(32 * inputs, Rows<W>::threads_of_row);
  return launch_clusters(inputs == 1 ? rows_kernel<W, 1> : rows_kernel<W, 2>, grid, threads, 0, stream, true, kCluster, c, static_cast<int>(t));
}

}  // namespace ops::product
