// defines: how a row of n is cut into runs of w for the kernels of runs_kernel.cuh, and what those take.
//
// H = (I ⊗ M ⊗ S)/√block is Y ⊗ S_w with Y = I ⊗ M ⊗ S of the order F = n/w: x·H is Y across runs, a product of small matrices with entries
// −1, 0, 1, which tensor cores make exactly from three bf16 parts of an f32, and S along each run, which stays with few threads.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "../../core/tensor_core.cuh"
#include "../../ops/hadamard/hadamard_matrix.h"

namespace ops::product {

constexpr int kCluster = 8;            // blocks that make some runs together, each from a part of the columns
constexpr int kMostThreads = 512;
constexpr int kMostSlots = 32;         // pieces of the sum of digits
constexpr int kMostSums = 16;          // times 32: pieces of sums of squares
constexpr int kFourths = 4;            // blocks of a row of row_kernel.cuh
// In how many pieces those leave the sum of digits: one of each warp, or of each block where warps are too many.
constexpr int row_slots(int warps) { return kFourths * warps <= kMostSlots ? kFourths * warps : kFourths; }

// One input of a chain: x, or z that is still to be finished: x = (z·Hᵀ) ⊙ sv + bias + add, kept at y.
struct Source {
  const float* x;  // f32 [t, n], or null
  const float *z, *sv, *add;
  float* y;
  int64_t stride;      // of z
  const uint4* mix;    // Yᵀ's operands
  float norm;
  const float* bias;
};

// What becomes of x̃ = (u ⊙ su)·H.
struct Digits {
  const uint4* mix;
  unsigned char* parts;
  float* units;
  float norm, most, eps;
  bool bytes, normed;
};

struct Chain {
  Source of[2];  // x, gate
  const float *su, *weight;
  Digits to;
  float* v;      // f32 [t, n], where Y is left to digits_kernel: u ⊙ su, S along runs done
  float2* sums;  // [t][blocks][warps with runs]: Σu², Σx²
  int n, runs, share;  // share: runs of a block
  int by_share, by_splits, by_tiles;  // reciprocals
  int head;            // where it ends with finished outputs: columns that weight is for, or 0
};

// x/d, x below 512 and d at most 64: a division takes longer than all else before the wait.
inline int reciprocal(int d) { return 65536 / d + 1; }
__host__ __device__ inline int divide(int x, int reciprocal) { return x * reciprocal >> 16; }

struct Chains {
  Chain of[4];
};

// Runs of w, F of them.
struct Cut {
  int w, runs;
  __host__ __device__ int steps() const { return (runs + 15) / 16; }             // of 16 runs, of a matrix instruction
  __host__ __device__ int splits() const { return (steps() + 1) / 2; }           // a warp takes two
  int groups() const { return std::max(1, w / (kCluster * 32)); }  // of columns of a block of a cluster, for a warp each
  int vector() const { return std::min(4, w / 64); }         // columns of a lane
};

inline Cut cut_into(int64_t n, int w) { return {w, static_cast<int>(n / w)}; }
// The longest runs that S allows.
inline int longest_run(int64_t block, int64_t factor) { return static_cast<int>(std::min<int64_t>(1024, block / factor)); }
// Of a power of two 16 runs, which are one operand.
inline int wished_run(int64_t n, int64_t block, int64_t factor) {
  const int most = longest_run(block, factor);
  return factor == 1 && block == n ? std::clamp(static_cast<int>(n / 16), std::min(64, most), most) : most;
}

// Who does what of a row.
struct Plan {
  Cut cut;
  bool row;              // by row_kernel.cuh
  bool all;              // one cluster or block has all runs, and no second kernel is needed
  int share, clusters, threads;  // share: runs of a block
  int groups, slots;     // of digits_kernel's blocks: 32 columns each; slots: pieces of the sum of digits
  int sums() const { return clusters * kCluster * ((share * cut.w / 4 + 31) / 32); }

  // By row_kernel.cuh, if that can be: H of the row's own order, a power of two.
  bool of_row(int64_t n, int64_t block, int64_t factor, int inputs, bool finish, bool begin) {
    const bool both = finish && begin;
    row = all = inputs == 1 && factor == 1 && block == n && n >= (both ? 2048 : 512) && n <= 8192;
    cut = {static_cast<int>(n), 1}, share = clusters = groups = 1, threads = 0, slots = row_slots(static_cast<int>(n / 512));
    return row;
  }
  // finish, begin: whether the chain does that; one: in one kernel if that can be. Gives whether it can be done.
  bool of(Cut given, int inputs, bool finish, bool begin, bool one = true) {
    cut = given, row = false;
    if (cut.w < 64 || cut.runs > 256) return false;
    const int warps = kMostThreads / 32, tiles = (cut.runs + 15) / 16, each = cut.splits() * cut.groups();
    const auto mixing = [&](int runs) { return finish ? inputs * ((runs + 15) / 16) * each : 0; };
    const auto making = [&](int share) { return (share * cut.w / 4 + 31) / 32; };
    share = (cut.runs + kCluster - 1) / kCluster, clusters = 1, slots = kCluster, groups = 1;
    const int busy = std::max({mixing(cut.runs), tiles * each, making(share)});
    all = one && begin && cut.runs <= 64 && busy <= warps;
    if (all) return threads = 32 * busy, true;
    share = cut.runs <= 64 ? 1 : 2;
    clusters = (cut.runs + share * kCluster - 1) / (share * kCluster);
    while (tiles * cut.w / (32 * groups) > kMostSlots) groups *= 2;
    slots = tiles * cut.w / (32 * groups);
    threads = 32 * std::max(mixing(share * kCluster), making(share));
    return threads <= kMostThreads && (!begin || (cut.splits() * groups <= warps && sums() <= 32 * kMostSums && groups * 32 <= cut.w));
  }
};

// What a chain knows of who does what.
inline void adopt(Chain& c, const Plan& plan) {
  c.n = plan.cut.w * plan.cut.runs, c.runs = plan.cut.runs, c.share = plan.share;
  c.by_share = reciprocal(plan.share), c.by_splits = reciprocal(plan.cut.splits()), c.by_tiles = reciprocal((plan.share * kCluster + 15) / 16);
}

// Y or its transpose as A operands, rows in tiles of 16 that begin anew after `share`.
inline std::vector<float> operands(int64_t block, int64_t factor, Cut cut, int share, bool transposed) {
  const std::vector<float> m = hadamard_matrix(factor);
  const int high = static_cast<int>(block / factor / cut.w), order = static_cast<int>(factor) * high;  // S's part of Y, and a block's order
  const auto at = [&](int i, int j) -> float {
    if (i >= cut.runs || j >= cut.runs || i / order != j / order) return 0;
    i %= order, j %= order;
    const bool minus = std::popcount(static_cast<unsigned>(i % high & j % high)) & 1;
    const float value = m[(i / high) * factor + j / high];
    return minus ? -value : value;
  };
  const int tiles_of_share = (share + 15) / 16, shares = (cut.runs + share - 1) / share;
  return a_operands(shares * tiles_of_share, cut.steps(), [&](int tile, int i, int k) {
    const int first = tile / tiles_of_share * share, row = first + tile % tiles_of_share * 16 + i;
    return row >= first + share ? 0.0f : transposed ? at(k, row) : at(row, k);
  });
}

}  // namespace ops::product
