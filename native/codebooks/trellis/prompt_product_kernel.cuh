// defines: prompt_product_kernel, a packed matrix times many vectors: weights are decoded in registers as the A operands of matrix instructions,
// for up to 128 vectors at a time, and never written.
//
// A warp has a strip of 32 rows (product_kernel.cuh says how a chunk of 64 columns lies in its lanes), a block eight strips, the columns of one
// piece, and one panel of vectors, which pass through shared memory a chunk at a time, ahead of their use. A lane's weights are those of one tile
// of a chunk, so a matrix instruction takes columns of all four tiles: lane 4g + c gives x of tile c, as its A operand has.
#pragma once
#include "decode_kernel.cuh"

namespace ops::prompt {

using product::Chunk;
using product::Stretch;

constexpr int kStrips = 8, kStages = 3, kVectorRow = 144;  // bytes: 64 f16 of a vector, and some so that vectors lie in different banks

struct ProductArgs {
  const uint32_t* packed;
  const uint32_t* entries;  // or null
  const __half* x;          // [vectors][n]
  float* z;                 // [pieces][vectors][m]
  int m, n, vectors;
};

// Into how many pieces the columns are cut: so that the fewest microseconds are expected of an H100, for waves of blocks of eight strips and a panel,
// `chunk` a chunk and two chunks' to begin and end; and a piece is written and read, mostly in the level-2 cache.
inline int pieces_of(int64_t m, int64_t n, int64_t vectors, int64_t panel, double chunk, int64_t multiprocessors) {
  const int64_t chunks = (n + 63) / 64, blocks = (m + 32 * kStrips - 1) / (32 * kStrips) * ((vectors + panel - 1) / panel);
  int best = 1;
  double least = 1e30;
  for (int pieces = 1; pieces <= chunks && pieces <= 16; ++pieces) {
    const double waves = static_cast<double>((blocks * pieces + multiprocessors - 1) / multiprocessors);
    const double cost = waves * (static_cast<double>((chunks + pieces - 1) / pieces) + 2) * chunk + pieces * vectors * m * 8 / 5e6;
    if (cost < least) least = cost, best = pieces;
  }
  return best;
}

// Vectors of a panel.
constexpr int panel(int tiles) { return 8 * tiles; }
template <class Pairs, int tiles>
constexpr size_t product_bytes() { return Pairs::table_bytes + kStages * panel(tiles) * kVectorRow; }

__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void copy_ahead(uint32_t to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// Grid [⌈strips/8⌉, pieces, panels].
template <class Pairs, int K, bool natural, int tiles>
__global__ void __launch_bounds__(32 * kStrips) prompt_product_kernel(const ProductArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Pairs pairs(args.entries, shared);
  unsigned char* const stages = shared + Pairs::table_bytes;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int chunks = (args.n + 63) / 64, strips = (args.m + 31) / 32, strip = min(static_cast<int>(blockIdx.x) * kStrips + warp, strips - 1);
  const int first = static_cast<int>(static_cast<int64_t>(chunks) * blockIdx.y / gridDim.y);
  const int last = static_cast<int>(static_cast<int64_t>(chunks) * (blockIdx.y + 1) / gridDim.y);
  const int top = blockIdx.z * panel(tiles);

  const auto bring = [&](int chunk) {
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(stages + (chunk - first) % kStages * panel(tiles) * kVectorRow));
#pragma unroll
    for (int i = threadIdx.x; i < panel(tiles) * 8; i += 32 * kStrips) {
      const int vector = top + i / 8, column = chunk * 64 + i % 8 * 8;
      const bool inside = vector < args.vectors && column < args.n;
      copy_ahead(to + i / 8 * kVectorRow + i % 8 * 16, args.x + (inside ? static_cast<int64_t>(vector) * args.n + column : 0), inside);
    }
  };
  const uint32_t* const mine = args.packed + static_cast<int64_t>(strip) * chunks * 64 * K + lane * (K % 2 == 0 ? 4 : 2);
  Chunk<K> next;
  next.load(mine + static_cast<int64_t>(first) * 64 * K);
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (first + i < last) bring(first + i);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  float d[tiles][2][4] = {};
  for (int chunk = first; chunk < last; ++chunk) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // this chunk's vectors are there, and nobody reads those of the one before
    if (chunk + kStages - 1 < last) bring(chunk + kStages - 1);
    asm volatile("cp.async.commit_group;" ::: "memory");
    const Chunk<K> now = next;
    if (chunk + 1 < last) next.load(mine + (chunk + 1) * int64_t{64 * K});

    uint32_t a[2][4][4];  // of a row of tiles, four instructions
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Stretch<K> bits(now.word + r * K);
      const auto take = [&]<int i>(std::integral_constant<int, i>) {
        if constexpr (natural) {
          a[r][i][0] = pairs.template of<K, 4 * i>(bits), a[r][i][1] = pairs.template of<K, 16 + 4 * i>(bits);
          a[r][i][2] = pairs.template of<K, 4 * i + 2>(bits), a[r][i][3] = pairs.template of<K, 18 + 4 * i>(bits);
        } else {
          a[r][i][0] = pairs.template of<K, 8 * i>(bits), a[r][i][1] = pairs.template of<K, 8 * i + 2>(bits);
          a[r][i][2] = pairs.template of<K, 8 * i + 4>(bits), a[r][i][3] = pairs.template of<K, 8 * i + 6>(bits);
        }
      };
      take(std::integral_constant<int, 0>{}), take(std::integral_constant<int, 1>{});
      take(std::integral_constant<int, 2>{}), take(std::integral_constant<int, 3>{});
    }
    const unsigned char* const stage = stages + (chunk - first) % kStages * panel(tiles) * kVectorRow + g * kVectorRow + c * 32;
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
      const uint4* const of = reinterpret_cast<const uint4*>(stage + tile * 8 * kVectorRow);
      const uint4 low = of[0], high = of[1];
      const uint32_t x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int r = 0; r < 2; ++r) multiply(d[tile][r], a[r][i], natural ? x[2 * i] : x[i], natural ? x[2 * i + 1] : x[4 + i]);
      }
    }
  }

  // Rows g and g + 8 of an operand are rows 2g and 2g + 1 of a tile in natural order.
  if (static_cast<int>(blockIdx.x) * kStrips + warp >= strips) return;
  float* const z = args.z + static_cast<int64_t>(blockIdx.y) * args.vectors * args.m;
#pragma unroll
  for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int vector = top + tile * 8 + c * 2 + j;
      if (vector >= args.vectors) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = strip * 32 + r * 16;
        if (row >= args.m) continue;
        float* const to = z + static_cast<int64_t>(vector) * args.m + row;
        if constexpr (natural) *reinterpret_cast<float2*>(to + 2 * g) = make_float2(d[tile][r][j], d[tile][r][2 + j]);
        else to[g] = d[tile][r][j], to[g + 8] = d[tile][r][2 + j];
      }
    }
  }
}

}  // namespace ops::prompt
