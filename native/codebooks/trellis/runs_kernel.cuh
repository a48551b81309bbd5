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

// Blocks [clusters · 8, t], of N inputs. finish: they are not finished.
template <int W, int N, bool finish, End end>
__device__ void run_chain(const Chain& c) {
#if __CUDA_ARCH__ >= 900
  using S = Shape<W>;
  constexpr bool all = end == End::digits;
  extern __shared__ __align__(16) float floats[];
  __shared__ Inbox inbox[2];
  const Cut cut{W, c.runs};
  const int share = c.share, rank = blockIdx.x % kCluster, of_cluster = share * kCluster, first_run = blockIdx.x / kCluster * of_cluster, row = blockIdx.y;
  if (first_run >= c.runs) return;  // all blocks of a cluster
  const Room room(cut, N, share, all);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (share * S::quads + 31) / 32;  // warps: that make runs
  if constexpr (finish || all) {
    if (threadIdx.x == 0) inbox[0].open(), inbox[1].open();
    __syncwarp();
    if (threadIdx.x == 0) {
      if constexpr (finish) inbox[0].expect(N * share * W * 4);
      if constexpr (all) inbox[1].expect(c.runs * S::columns * 4 + kCluster * warps * 8);
    }
    __syncwarp();
    cluster_begin();
  }

  // As one of those who make runs: four numbers of one.
  const int local = threadIdx.x / S::quads, quad = threadIdx.x % S::quads, run = first_run + rank * share + local, at = run * W + 4 * quad;
  const bool active = local < share && run < c.runs;
  float4 sv[N], bias[N], su = {1, 1, 1, 1}, weight = {1, 1, 1, 1};
#pragma unroll
  for (int n = 0; n < N; ++n) {
    sv[n] = {1, 1, 1, 1}, bias[n] = {};
    if (finish && active && c.of[n].sv) sv[n] = four(c.of[n].sv + at);
    if (finish && active && c.of[n].bias) bias[n] = four(c.of[n].bias + at);
  }
  if (end != End::finished && active && c.su) su = four(c.su + at);
  if (N == 1 && active && c.weight) weight = four(c.weight + (end == End::finished ? at % c.head : at));

  // As one of a warp that mixes: of an input, a tile of 16 runs of the cluster's, two steps over all runs, and columns.
  const int tiles = (of_cluster + 15) / 16, splits = cut.splits(), steps = cut.steps();
  const int group = warp % S::groups, tile_of_all = divide(warp / S::groups, c.by_splits), split = warp / S::groups - tile_of_all * splits;
  const int which = divide(tile_of_all, c.by_tiles), tile = tile_of_all - which * tiles, all_tiles = (c.runs + 15) / 16;
  const bool mixes = finish && which < N;
  const uint4* const mixing = c.of[N == 2 && which ? 1 : 0].mix + (static_cast<int>(blockIdx.x) / kCluster * tiles + tile) * steps * 32 + lane;
  uint4 y[2] = {}, y_next[2] = {};
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const int step = 2 * split + s;
    if (mixes && step < steps) y[s] = __ldg(mixing + step * 32);
    if (all && tile_of_all < all_tiles && step < steps) y_next[s] = __ldg(c.to.mix + (tile_of_all * steps + step) * 32 + lane);
  }

  // Where what a lane mixes goes: two rows of a tile, each to the block whose it is.
  const int first_column = group * 8 * S::vector + lane % 4 * 2 * S::vector;
  uint32_t there[2], their[2];
  const auto place_of = [&](int n, int run_of_cluster, int column, uint32_t& inbox_there) {
    const int to = divide(run_of_cluster, c.by_share);
    inbox_there = place_at(&inbox[0], to);
    return place_at(floats + (n * share + run_of_cluster - to * share) * W + rank * S::columns + column, to);
  };
  if (finish && splits == 1) {
#pragma unroll
    for (int half = 0; half < 2; ++half) there[half] = place_of(which, min(tile * 16 + lane / 4 + half * 8, of_cluster - 1), first_column, their[half]);
  }
  wait_for_previous();
  let_next_begin();

  const int64_t mine = static_cast<int64_t>(row) * c.n + at;
  float v[N][4];
  if constexpr (finish) {
    float4 add[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      add[n] = {};
      if (active && c.of[n].add) add[n] = __ldcg(reinterpret_cast<const float4*>(c.of[n].add + mine));
    }
    Mix<S::vector> mix;
    if (mixes) {
      const Source& source = c.of[N == 2 && which ? 1 : 0];
      const float* const from = source.z + row * source.stride + rank * S::columns + group * 8 * S::vector + lane / 4 * S::vector;
      mix.template operator()<true>(y, from, W, 2 * split, c.runs);
    }
    if (splits == 1) {
      cluster_wait();  // all blocks have begun
      if (mixes) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (tile * 16 + lane / 4 + half * 8 >= of_cluster) continue;
          if constexpr (S::vector == 1) push(there[half], make_float2(mix.at(half, 0), mix.at(half, 1)), their[half]);
          else {
#pragma unroll
            for (int i = 0; i < 2 * S::vector; i += 4) {
              push(there[half] + 4 * i, make_float4(mix.at(half, i), mix.at(half, i + 1), mix.at(half, i + 2), mix.at(half, i + 3)), their[half]);
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
        const int n = N == 2 && i >= of_cluster * (S::columns / 4), column = i % (S::columns / 4) * 4, to = i / (S::columns / 4) - n * of_cluster;
        const float* const from = floats + room.partial + ((n * tiles + to / 16) * splits * 16 + to % 16) * S::row + column;
        float4 sum = four(from);
#pragma unroll 4
        for (int s = 1; s < splits; ++s) {
          const float4 p = four(from + s * 16 * S::row);
          sum.x += p.x, sum.y += p.y, sum.z += p.z, sum.w += p.w;
        }
        uint32_t inbox_there;
        const uint32_t place = place_of(n, to, column, inbox_there);
        push(place, sum, inbox_there);
      }
    }
    inbox[0].wait();
    float* const here = floats + local * W;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float4 r = active ? four(here + n * share * W + 4 * quad) : float4{};
      v[n][0] = r.x, v[n][1] = r.y, v[n][2] = r.z, v[n][3] = r.w;
    }
    along<W, N>(v, here, share * W, quad, active);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float norm = c.of[n].norm;
      v[n][0] = fmaf(v[n][0] * norm, sv[n].x, bias[n].x + add[n].x), v[n][1] = fmaf(v[n][1] * norm, sv[n].y, bias[n].y + add[n].y);
      v[n][2] = fmaf(v[n][2] * norm, sv[n].z, bias[n].z + add[n].z), v[n][3] = fmaf(v[n][3] * norm, sv[n].w, bias[n].w + add[n].w);
      if constexpr (end == End::finished) {
        if (c.weight) norm_heads(v[n], weight, c.head, c.to.eps);
      }
      if (active && c.of[n].y) *reinterpret_cast<float4*>(c.of[n].y + mine) = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
    }
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float4 r = active ? __ldcg(reinterpret_cast<const float4*>(c.of[n].x + mine)) : float4{};
      v[n][0] = r.x, v[n][1] = r.y, v[n][2] = r.z, v[n][3] = r.w;
    }
  }
  if constexpr (end == End::finished) return;

  float u[1][4];
  float2 sums = scaled(v, su, weight, active, u);
  if constexpr (all) {  // on their way while S is made
    sums = warp_sums(sums);
    if (!finish) cluster_wait();
    if (lane < kCluster && warp < warps) push(place_at(floats + room.sums + 2 * (rank * warps + warp), lane), sums, place_at(&inbox[1], lane));
  }
  along<W, 1>(u, floats + room.second + local * W, 0, quad, active);
  const float4 made = make_float4(u[0][0], u[0][1], u[0][2], u[0][3]);
  if constexpr (!all) {
    if (active) *reinterpret_cast<float4*>(c.v + mine) = made;
    sums = warp_sums(sums);
    if (lane == 0 && warp < warps) c.sums[(static_cast<int64_t>(row) * gridDim.x + blockIdx.x) * warps + warp] = sums;
  } else {
    const int to = 4 * quad / S::columns;
    if (active) push(place_at(floats + room.next + run * S::row + 4 * quad % S::columns, to), made, place_at(&inbox[1], to));
    inbox[1].wait();
    unsigned char* const parts = c.to.parts + static_cast<int64_t>(row) * c.n * (c.to.bytes ? 3 : 4);
    float* const units = c.to.units + static_cast<int64_t>(row) * (1 + kCluster);
    float2 total{};
    const float2* const from = reinterpret_cast<const float2*>(floats + room.sums);
#pragma unroll 1
    for (int i = lane; i < kCluster * warps; i += 32) total.x += from[i].x, total.y += from[i].y;
    const auto inverse = [&] {
      total = warp_sums(total);
      return inverse_unit(c.to, total);
    };
    const float sum = into_digits<S::vector, false>(c.to, y_next, floats + room.next, S::row, floats + room.rest, cut, 0, all_tiles, S::groups,
                                                    rank * S::columns, parts, inverse);
    leave_sum(c.to, units, rank, sum, floats + room.scratch);
    if (rank == 0 && threadIdx.x == 0) units[0] = unit_worth(c.to, total, c.n);
  }
#endif
}

template <int W, int N, bool finish, End end>
__global__ void __launch_bounds__(kMostThreads) chain_kernel(const __grid_constant__ Chain chain) {
  run_chain<W, N, finish, end>(chain);
}
// Grid [clusters · 8, t, chains]: outputs that somebody else reads.
template <int W>
__global__ void __launch_bounds__(kMostThreads) finish_kernel(const __grid_constant__ Chains chains) {
  run_chain<W, 1, true, End::finished>(chains.of[blockIdx.z]);
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
  float* const units = to.units + static_cast<int64_t>(row) * (1 + gridDim.x);
  const auto inverse = [&] {
    float2 total{};
#pragma unroll
    for (int i = 0; i < kMostSums; ++i) total.x += part[i].x, total.y += part[i].y;
    total = warp_sums(total);
    if (blockIdx.x == 0 && threadIdx.x == 0) units[0] = unit_worth(to, total, n);
    return inverse_unit(to, total);
  };
  unsigned char* const parts = to.parts + static_cast<int64_t>(row) * n * (to.bytes ? 3 : 4);
  float* const partial = floats + kMostThreads / 32;
  const float* const from = v + static_cast<int64_t>(row) * n + first_column;
  const float sum = into_digits<4, true>(to, y, from, cut.w, partial, cut, tile, 1, groups, first_column, parts, inverse);
  leave_sum(to, units, blockIdx.x, sum, floats);
}

}  // namespace ops::product
