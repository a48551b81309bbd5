// defines: chain_kernel and digits_kernel: what is between two products, as runs.cuh cuts it.
//
//   finish    x = (z·Hᵀ) ⊙ sv + add           Y across runs, S along them
//   between   u = x, x ⊙ weight or silu(gate) ⊙ x; ⊙ su
//   begin     u·H into digits                 S along runs, Y across them: the run that S has just made is where S goes on
//
// A block of a cluster reads its columns of all runs, hands each run to the block whose it is, and finishes its own. Y of `begin` wants columns
// again: where a cluster has all runs they go back the same way; else digits_kernel does it.
//
// Everything that is a constant of the model (su, sv, weight, Y) is read before the kernel waits for the one before it. Who writes those must
// not let its successor begin before it has ended, and no kernel here does.
#pragma once
#include "runs_steps.cuh"

namespace ops::product {

template <int W>
struct Shape {
  static constexpr int quads = W / 4, columns = W / kCluster, vector = columns / 8 < 4 ? columns / 8 : 4, groups = columns / (8 * vector), row = columns + 4;
};

// Places in shared memory, in floats.
struct Room {
  int second, partial, next, rest, sums, scratch, bytes;
  __host__ __device__ Room(Cut cut, int inputs, int share, bool all) {
    const int row = cut.w / kCluster + 4, tiles = (share * kCluster + 15) / 16, splits = ((cut.runs + 15) / 16 + 1) / 2;
    second = inputs * share * cut.w;
    partial = second + (cut.w > 128 ? share * cut.w : 0);
    next = partial + (splits > 1 ? inputs * tiles * splits * 16 * row : 0);
    rest = next + (all ? cut.runs * row : 0);
    sums = rest + (all && (splits > 1 || cut.w == 64) ? splits * (cut.runs + 15) / 16 * 16 * row : 0);
    sums += sums & 1;
    scratch = sums + 2 * kCluster * (kMostThreads / 32);
    bytes = (scratch + kMostThreads / 32) * 4;
  }
};

inline int digits_bytes(Cut cut, int groups) { return (kMostThreads / 32 + (cut.splits() > 1 ? cut.splits() * 16 * (groups * 32 + 4) : 0)) * 4; }

__device__ inline float4 four(const float* from) { return *reinterpret_cast<const float4*>(from); }

// Grid [clusters · 8, t, chains]. N inputs. all: a cluster has all runs.
template <int W, int N>
__global__ void __launch_bounds__(kMostThreads) chain_kernel(const Chains chains, bool all) {
  using S = Shape<W>;
  extern __shared__ __align__(16) float floats[];
  const Chain& c = chains.of[blockIdx.z];
  const Cut cut{W, c.runs};
  const int rank = blockIdx.x % kCluster, of_cluster = c.share * kCluster, first_run = blockIdx.x / kCluster * of_cluster, row = blockIdx.y;
  if (first_run >= c.runs) return;  // all blocks of a cluster
  const Room room(cut, N, c.share, all);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool finish = c.of[0].x == nullptr;

  // As one of those who make runs: four numbers of one.
  const int local = threadIdx.x / S::quads, quad = threadIdx.x % S::quads, run = first_run + rank * c.share + local, at = run * W + 4 * quad;
  const bool active = local < c.share && run < c.runs;
  float4 sv[N], bias[N], su = {1, 1, 1, 1};
#pragma unroll
  for (int n = 0; n < N; ++n) {
    sv[n] = finish && active && c.of[n].sv ? four(c.of[n].sv + at) : make_float4(1, 1, 1, 1);
    bias[n] = finish && active && c.of[n].bias ? four(c.of[n].bias + at) : float4{};
  }
  if (active && c.su) su = four(c.su + at);
  const float4 weight = active && c.weight ? four(c.weight + at) : make_float4(1, 1, 1, 1);

  // As one of a warp that mixes: of an input, a tile of 16 runs of the cluster's, two steps over all runs, and columns.
  const int tiles = (of_cluster + 15) / 16, splits = cut.splits(), steps = cut.steps();
  const int group = warp % S::groups, split = warp / S::groups % splits, tile = warp / (S::groups * splits) % tiles;
  const int which = warp / (S::groups * splits * tiles);
  const bool mixes = finish && which < N;
  const auto operand = [&](const uint4* from, int tile, int step) { return step < steps ? __ldg(from + (tile * steps + step) * 32 + lane) : uint4{}; };
  uint4 y[2] = {}, y_next[2] = {};
  if (mixes) {
#pragma unroll
    for (int s = 0; s < 2; ++s) y[s] = operand(c.of[which].mix, first_run / of_cluster * tiles + tile, 2 * split + s);
  }
  const int all_tiles = (c.runs + 15) / 16;
  if (all && warp / (S::groups * splits) < all_tiles) {
#pragma unroll
    for (int s = 0; s < 2; ++s) y_next[s] = operand(c.to.mix, warp / (S::groups * splits), 2 * split + s);
  }
  if (finish || all) cluster_arrive();
  wait_for_previous();
  let_next_begin();

  const int64_t mine = static_cast<int64_t>(row) * c.n + at;
  float v[N][4];
  if (finish) {
    float4 add[N];
#pragma unroll
    for (int n = 0; n < N; ++n) add[n] = active && c.of[n].add ? __ldcg(reinterpret_cast<const float4*>(c.of[n].add + mine)) : float4{};
    Mix<S::vector> mix;
    const int first_column = group * 8 * S::vector + lane % 4 * 2 * S::vector;  // that this lane has then
    if (mixes) {
      const Source& source = c.of[which];
      const float* const from = source.z + row * source.stride + rank * S::columns + group * 8 * S::vector + lane / 4 * S::vector;
      mix.template operator()<true>(y, from, W, 2 * split, c.runs);
    }
    const auto there = [&](int n, int run_of_cluster, int column) {
      return place_at(floats + (n * c.share + run_of_cluster % c.share) * W + rank * S::columns + column, run_of_cluster / c.share);
    };
    if (splits == 1) {
      cluster_wait();
      if (mixes) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int to = tile * 16 + lane / 4 + half * 8;
          if (to >= of_cluster) continue;
          const uint32_t place = there(which, to, first_column);
          if constexpr (S::vector == 1) push(place, make_float2(mix.at(half, 0), mix.at(half, 1)));
          else {
#pragma unroll
            for (int i = 0; i < 2 * S::vector; i += 4) {
              push(place + 4 * i, make_float4(mix.at(half, i), mix.at(half, i + 1), mix.at(half, i + 2), mix.at(half, i + 3)));
            }
          }
        }
      }
    } else {
      if (mixes) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* const to = floats + room.partial + (((which * tiles + tile) * splits + split) * 16 + lane / 4 + half * 8) * S::row + first_column;
#pragma unroll
          for (int i = 0; i < 2 * S::vector; ++i) to[i] = mix.at(half, i);
        }
      }
      __syncthreads();
      cluster_wait();
      for (int i = threadIdx.x; i < N * of_cluster * (S::columns / 4); i += blockDim.x) {
        const int column = i % (S::columns / 4) * 4, to = i / (S::columns / 4) % of_cluster, n = i / (S::columns / 4 * of_cluster);
        const float* const from = floats + room.partial + ((n * tiles + to / 16) * splits * 16 + to % 16) * S::row + column;
        float4 sum = four(from);
        for (int s = 1; s < splits; ++s) {
          const float4 p = four(from + s * 16 * S::row);
          sum.x += p.x, sum.y += p.y, sum.z += p.z, sum.w += p.w;
        }
        push(there(n, to, column), sum);
      }
    }
    cluster_arrive();
    cluster_wait();
    float* const here = floats + local * W;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float4 r = active ? four(here + n * c.share * W + 4 * quad) : float4{};
      v[n][0] = r.x, v[n][1] = r.y, v[n][2] = r.z, v[n][3] = r.w;
    }
    along<W, N>(v, here, c.share * W, quad, active);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float norm = c.of[n].norm;
      v[n][0] = fmaf(v[n][0] * norm, sv[n].x, bias[n].x + add[n].x), v[n][1] = fmaf(v[n][1] * norm, sv[n].y, bias[n].y + add[n].y);
      v[n][2] = fmaf(v[n][2] * norm, sv[n].z, bias[n].z + add[n].z), v[n][3] = fmaf(v[n][3] * norm, sv[n].w, bias[n].w + add[n].w);
      if (active && c.of[n].y) *reinterpret_cast<float4*>(c.of[n].y + mine) = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
    }
    if (c.last) return;
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float4 r = active ? __ldcg(reinterpret_cast<const float4*>(c.of[n].x + mine)) : float4{};
      v[n][0] = r.x, v[n][1] = r.y, v[n][2] = r.z, v[n][3] = r.w;
    }
  }

  const float factors[4] = {su.x, su.y, su.z, su.w}, weights[4] = {weight.x, weight.y, weight.z, weight.w};
  float u[1][4];
  float2 sums{};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float x = v[0][i];
    if (active) sums.y = fmaf(x, x, sums.y);
    // The exact quotient has a branch, behind which everything waits.
    if constexpr (N == 2) x *= __fdividef(v[1][i], 1.0f + __expf(-v[1][i]));
    u[0][i] = x * (weights[i] * factors[i]);
    if (active) sums.x = fmaf(u[0][i], u[0][i], sums.x);
  }
  sums = warp_sums(sums);
  const int warps = (c.share * S::quads + 31) / 32;  // that have runs
  if (!all && lane == 0 && warp < warps) c.sums[(static_cast<int64_t>(row) * gridDim.x + blockIdx.x) * warps + warp] = sums;
  along<W, 1>(u, floats + room.second + local * W, 0, quad, active);
  const float4 made = make_float4(u[0][0], u[0][1], u[0][2], u[0][3]);
  if (!all) {
    if (active) *reinterpret_cast<float4*>(c.v + mine) = made;
    return;
  }

  if (!finish) cluster_wait();  // all blocks have begun
  if (active) push(place_at(floats + room.next + run * S::row + 4 * quad % S::columns, 4 * quad / S::columns), made);
  const float2* const sums_here = reinterpret_cast<const float2*>(floats + room.sums);
  if (lane < kCluster && warp < warps) push(place_at(reinterpret_cast<const float*>(sums_here + rank * warps + warp), lane), sums);
  cluster_arrive();
  cluster_wait();
  float2 total{};
  for (int i = lane; i < kCluster * warps; i += 32) total.x += sums_here[i].x, total.y += sums_here[i].y;
  const Unit unit(c.to, warp_sums(total), c.n);
  unsigned char* const parts = c.to.parts + static_cast<int64_t>(row) * c.n * (c.to.bytes ? 3 : 4);
  float* const units = c.to.units + static_cast<int64_t>(row) * (1 + kCluster);
  const float sum = into_digits<S::vector, false>(c.to, y_next, floats + room.next, S::row, floats + room.rest, cut, 0, all_tiles, S::groups, rank * S::columns,
                                                  parts, [&] { return unit.inverse; });
  leave_sum(c.to, units, rank, sum, floats + room.scratch);
  if (rank == 0 && threadIdx.x == 0) units[0] = unit.worth;
}

// Y across runs of v, 16 runs × `groups`·32 columns a block: grid [blocks, t].
static __global__ void __launch_bounds__(kMostThreads) digits_kernel(const Digits to, const float* v, const float2* sums, Cut cut, int count, int groups) {
  extern __shared__ __align__(16) float floats[];
  const int across = cut.w / (groups * 32), tile = blockIdx.x / across, first_column = blockIdx.x % across * groups * 32;
  const int row = blockIdx.y, n = cut.w * cut.runs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = warp / groups % cut.splits();
  uint4 y[2] = {};
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (2 * split + s < cut.steps()) y[s] = __ldg(to.mix + (tile * cut.steps() + 2 * split + s) * 32 + lane);
  }
  wait_for_previous();
  let_next_begin();
  float2 part[kMostSums];
#pragma unroll
  for (int i = 0; i < kMostSums; ++i) part[i] = lane + 32 * i < count ? __ldcg(sums + static_cast<int64_t>(row) * count + lane + 32 * i) : float2{};
  float worth = 0;
  const auto inverse = [&] {
    float2 total{};
#pragma unroll
    for (int i = 0; i < kMostSums; ++i) total.x += part[i].x, total.y += part[i].y;
    const Unit unit(to, warp_sums(total), n);
    worth = unit.worth;
    return unit.inverse;
  };
  unsigned char* const parts = to.parts + static_cast<int64_t>(row) * n * (to.bytes ? 3 : 4);
  float* const units = to.units + static_cast<int64_t>(row) * (1 + gridDim.x);
  float* const partial = floats + kMostThreads / 32;
  const float* const from = v + static_cast<int64_t>(row) * n + first_column;
  const float sum = into_digits<4, true>(to, y, from, cut.w, partial, cut, tile, 1, groups, first_column, parts, inverse);
  leave_sum(to, units, blockIdx.x, sum, floats);
  if (blockIdx.x == 0 && threadIdx.x == 0) units[0] = worth;
}

// ── launches ──────────────────────────────────────────────────────────────────────────────────────────────────────────

// One chain, or several that are finished only, all of runs of w; threads and clusters: the most of theirs.
inline cudaError_t enqueue_chains(const Chains& chains, const Plan* plans, int count, int inputs, int64_t t, bool clustered, cudaStream_t stream) {
  int threads = 0, clusters = 0, bytes = 0;
  for (int i = 0; i < count; ++i) {
    threads = std::max(threads, plans[i].threads), clusters = std::max(clusters, plans[i].clusters);
    bytes = std::max(bytes, Room(plans[i].cut, inputs, plans[i].share, plans[i].all).bytes);
  }
  const dim3 grid(clusters * kCluster, static_cast<unsigned>(t), count);
  const auto with = [&](auto kernel) { return launch_clusters(kernel, grid, threads, bytes, stream, true, clustered ? kCluster : 1, chains, plans[0].all); };
  switch (plans[0].cut.w) {
    case 64: return with(inputs == 1 ? chain_kernel<64, 1> : chain_kernel<64, 2>);
    case 128: return with(inputs == 1 ? chain_kernel<128, 1> : chain_kernel<128, 2>);
    case 256: return with(inputs == 1 ? chain_kernel<256, 1> : chain_kernel<256, 2>);
    case 512: return with(inputs == 1 ? chain_kernel<512, 1> : chain_kernel<512, 2>);
    default: return with(inputs == 1 ? chain_kernel<1024, 1> : chain_kernel<1024, 2>);
  }
}

inline cudaError_t enqueue_digits(const Digits& to, const float* v, const float2* sums, const Plan& plan, int64_t t, cudaStream_t stream) {
  const int threads = std::max(128, 32 * plan.cut.splits() * plan.groups);
  const dim3 grid(plan.slots, static_cast<unsigned>(t));
  return ops::launch(digits_kernel, grid, threads, digits_bytes(plan.cut, plan.groups), stream, true, to, v, sums, plan.cut, plan.sums(), plan.groups);
}

}  // namespace ops::product
