// defines: decode_kernel, a packed matrix as numbers; and what states are worth there, two f16 at a time.
//
// A warp decodes a chunk of product_kernel.cuh's layout, 32 rows × 64 columns. What its lanes hold is put into place in shared memory, a row of
// tiles at a time, so that rows leave 128 bytes at a time: writing is what bounds it.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "product_states.cuh"

namespace ops::product {

// ── pairs of values: `of<K, i>` gives weights i, i + 1 of a lane's 32 as f16, `wide` as f32 ─────────────────────

__device__ inline float2 two_of(uint32_t pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }

// 512 pairs, each once for every lane, so that no two lanes of a warp want the same bank.
struct HybPairs {
  static constexpr int table_bytes = 512 * 32 * 4;
  const unsigned char* table;
  __device__ HybPairs(const uint32_t* entries, unsigned char* shared) : table(shared + threadIdx.x % 32 * 4) {
    for (int i = threadIdx.x; i < 512 * 8; i += blockDim.x) {
      const uint32_t pair = __ldg(entries + i / 8);
      reinterpret_cast<uint4*>(shared)[i] = make_uint4(pair, pair, pair, pair);
    }
  }
  template <int K, int i>
  __device__ uint32_t of(const Stretch<K>& w) const {
    const uint32_t s = state<K, i * K, false>(w), u = s * s + s;
    return *reinterpret_cast<const uint32_t*>(table + (u * 2 & 0xff80)) ^ (u & 0x8000);
  }
  template <int K, int i>
  __device__ float2 wide(const Stretch<K>& w) const { return two_of(of<K, i>(w)); }
};

struct NoTable {
  static constexpr int table_bytes = 0;
  __device__ NoTable(const uint32_t*, unsigned char*) {}
};

__device__ inline uint32_t bits_of(__half2 pair) { return *reinterpret_cast<const uint32_t*>(&pair); }

template <uint32_t factor, uint32_t addend>
struct HalvesPairs : NoTable {
  using NoTable::NoTable;
  template <int K, int i>
  __device__ static uint32_t hashed(const Stretch<K>& w) { return ((state<K, i * K, true>(w) * factor + addend) & 0x8fff8fff) ^ 0x3b603b60; }
  template <int K, int i>
  __device__ float2 wide(const Stretch<K>& w) const {
    const float2 a = two_of(hashed<K, i>(w)), b = two_of(hashed<K, i + 1>(w));
    return {a.x + a.y, b.x + b.y};
  }
  template <int K, int i>
  __device__ uint32_t of(const Stretch<K>& w) const {
    const uint32_t a = hashed<K, i>(w), b = hashed<K, i + 1>(w);
    const uint32_t low = __byte_perm(a, b, 0x5410), high = __byte_perm(a, b, 0x7632);
    return bits_of(__hadd2(*reinterpret_cast<const __half2*>(&high), *reinterpret_cast<const __half2*>(&low)));
  }
};

template <uint32_t factor, uint32_t addend>
struct BytesPairs : NoTable {
  using NoTable::NoTable;
  template <int K, int at>
  __device__ static uint32_t sum(const Stretch<K>& w) { return __dp4a(state<K, at * K, true>(w) * factor + addend, 0x01010101u, 0u); }
};
struct Mul1Pairs : BytesPairs<0x83dcd12d, 0> {
  using BytesPairs::BytesPairs;
  template <int K, int i>
  __device__ uint32_t of(const Stretch<K>& w) const {
    const uint32_t sums = 0x64006400 + (sum<K, i>(w) | sum<K, i + 1>(w) << 16);  // 1024 + sum as f16
    const uint32_t gain = 0x1eee1eee, offset = 0xc931c931;
    return bits_of(__hfma2(*reinterpret_cast<const __half2*>(&sums), *reinterpret_cast<const __half2*>(&gain), *reinterpret_cast<const __half2*>(&offset)));
  }
  template <int K, int i>
  __device__ float2 wide(const Stretch<K>& w) const {
    const auto value = [](uint32_t sum) { return static_cast<float>(1024 + sum) * (1774.0f / (1 << 18)) - 1329.0f / 128; };  // exact
    return {value(sum<K, i>(w)), value(sum<K, i + 1>(w))};
  }
};
struct Mad1Pairs : BytesPairs<34038481, 76625530> {
  using BytesPairs::BytesPairs;
  template <int K, int i>
  __device__ uint32_t of(const Stretch<K>& w) const {
    // Of all 1021 sums the product, rounded twice, is the quotient's f16.
    const auto value = [](uint32_t sum) { return static_cast<float>(static_cast<int>(sum) - 510) * static_cast<float>(1 / 147.800537109375); };
    return bits_of(__floats2half2_rn(value(sum<K, i>(w)), value(sum<K, i + 1>(w))));
  }
  template <int K, int i>
  __device__ float2 wide(const Stretch<K>& w) const {
    const auto value = [](uint32_t sum) { return __fdiv_rn(static_cast<float>(static_cast<int>(sum) - 510), 147.800537109375f); };
    return {value(sum<K, i>(w)), value(sum<K, i + 1>(w))};
  }
};

// ── the kernel ────────────────────────────────────────────────────────────────────────────────────────────────────────

constexpr int kDecodeWarps = 32;  // of a block, at most
constexpr int kStageRow = 36;     // words: 16 rows of 64 f16, neither rows nor their parts in the same banks

struct DecodeArgs {
  const uint32_t* packed;   // of the first row wanted
  const uint32_t* entries;  // or null
  void* values;             // T [count, n]
  int count, n, chunks;     // chunks of a strip of 32 rows
};

template <class Pairs>
constexpr size_t decode_bytes(int warps) { return Pairs::table_bytes + warps * 16 * kStageRow * 4; }

template <class Pairs, int K, bool natural, class T>
__global__ void __launch_bounds__(kDecodeWarps * 32) decode_kernel(const DecodeArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Pairs pairs(args.entries, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  uint32_t* const stage = reinterpret_cast<uint32_t*>(shared + Pairs::table_bytes) + warp * 16 * kStageRow;
  const int64_t all = static_cast<int64_t>((args.count + 31) / 32) * args.chunks, warps = blockDim.x / 32;
  const int64_t step = gridDim.x * warps;
  int64_t at = blockIdx.x * warps + warp;
  const auto load = [&](Chunk<K>& into, int64_t from) {
    if (from < all) into.load(args.packed + from * 64 * K + lane * (K % 2 == 0 ? 4 : 2));
  };
  Chunk<K> next;
  load(next, at);
  __syncthreads();
  for (; at < all; at += step) {
    const Chunk<K> chunk = next;
    load(next, at + step);
    const int top = static_cast<int>(at / args.chunks) * 32, left = static_cast<int>(at % args.chunks) * 64;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Stretch<K> bits(chunk.word + r * K);
      if constexpr (std::is_same_v<T, float>) {  // as they come: prompts want f16
        const auto leave_pair = [&]<int p>(std::integral_constant<int, p>) {
          constexpr int row = p / 8, from = p % 8 * 2;
          const int to = top + r * 16 + (natural ? 2 * g + row : g + 8 * row), column = left + c * 16 + from;
          if (to >= args.count || column >= args.n) return;
          T* const at = static_cast<T*>(args.values) + static_cast<int64_t>(to) * args.n + column;
          *reinterpret_cast<float2*>(at) = pairs.template wide<K, weight_at(row, from, natural)>(bits);
        };
        [&]<int... p>(std::integer_sequence<int, p...>) { (leave_pair(std::integral_constant<int, p>{}), ...); }(std::make_integer_sequence<int, 16>{});
      } else {
        const auto leave_eight = [&]<int q>(std::integral_constant<int, q>) {
          const uint4 eight{pairs.template of<K, 8 * q>(bits), pairs.template of<K, 8 * q + 2>(bits), pairs.template of<K, 8 * q + 4>(bits),
                            pairs.template of<K, 8 * q + 6>(bits)};
          if constexpr (natural) {
            *reinterpret_cast<uint4*>(stage + (2 * g + q / 2) * kStageRow + c * 8 + q % 2 * 4) = eight;
          } else {
            uint32_t* const to = stage + g * kStageRow + c * 8 + q;
            to[0] = eight.x, to[8 * kStageRow] = eight.y, to[4] = eight.z, to[8 * kStageRow + 4] = eight.w;
          }
        };
        leave_eight(std::integral_constant<int, 0>{}), leave_eight(std::integral_constant<int, 1>{});
        leave_eight(std::integral_constant<int, 2>{}), leave_eight(std::integral_constant<int, 3>{});
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = i * 4 + lane / 8, column = left + lane % 8 * 8, to = top + r * 16 + row;
          if (to < args.count && column < args.n) {
            T* const at = static_cast<T*>(args.values) + static_cast<int64_t>(to) * args.n + column;
            *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(stage + row * kStageRow + lane % 8 * 4);
          }
        }
        __syncwarp();
      }
    }
  }
}

}  // namespace ops::product
