// defines: warpgroup_product_kernel, prompt_product_kernel.cuh's product by the instructions of compute capability 9.0a (wgmma).
//
// Four warps multiply a row of tiles of four strips, decoded into registers, by a panel of vectors that the instruction itself reads from shared
// memory; while one group of four multiplies, three decode. A block has eight strips of 32 rows and one panel. Vectors are placed
// (prompt_product.h), so that the instruction's 16 places along k are the columns whose weights a lane has.
#pragma once
#include "../../core/overlap.cuh"
#include "../../core/tensor_core.cuh"
#include "decode_kernel.cuh"
#include "prompt_product_kernel.cuh"

namespace ops::prompt {

// Chunks of vectors in shared memory: those that come, the one that is multiplied, and the one before it, which others may still multiply by.
constexpr int kComing = 4, kRing = kComing + 2;
constexpr int kHalves = 2 * kStrips;  // warps of a block: of each strip a row of tiles
constexpr int kAhead = 3;             // chunks of packed words on their way

template <class Pairs, int panel>
constexpr size_t warpgroup_bytes() { return 1024 + kRing * panel * 128 + Pairs::table_bytes; }

#define D8(i) "%" #i "0, %" #i "1, %" #i "2, %" #i "3, %" #i "4, %" #i "5, %" #i "6, %" #i "7, %" #i "8, %" #i "9, "
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
// d [64, panel] += a [64, 16] · bᵀ [16, panel], not finished before `multiplied`.
__device__ inline void multiply(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " D8(1) D8(2)
               "%30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
               : F16(0), F16(16) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " D8(1) D8(2) D8(3) D8(4) D8(5)
               "%60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
               : F16(0), F16(16), F16(32), F16(48) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef D8
#undef F4
#undef F16
// All but the last `left` groups of products are finished.
template <int left>
__device__ inline void multiplied() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory"); }


// A barrier in shared memory, whose rounds end when all have arrived and all bytes that were expected are there.
__device__ inline void open(uint64_t& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}
__device__ inline void arrive(uint64_t& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
// Waits for the end of a round, of even or odd number.
__device__ inline void wait(uint64_t& barrier, uint32_t odd) {
  uint32_t over = 0;
  while (!over) {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(over) : "r"(shared_address(&barrier)), "r"(odd) : "memory");
  }
}
// Bytes on their way to shared memory, for whose arrival a round of the barrier waits.
__device__ inline void bring(uint32_t to, const void* from, uint32_t bytes, uint64_t& barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(to), "l"(from), "r"(bytes), "r"(shared_address(&barrier)) : "memory");
}

// The K words of a lane for a row of tiles of a chunk.
template <int K>
struct HalfChunk {
  uint32_t word[K];
  __device__ void load(const uint32_t* chunk, int r, int lane) {
    constexpr int V = K % 2 == 0 ? 4 : 2;  // of a vector
#pragma unroll
    for (int i = 0; i < K; ++i) word[i] = __ldcs(chunk + (r * K + i) / V * 32 * V + lane * V + (r * K + i) % V);
  }
};

// Grid [⌈strips/8⌉, pieces, panels]. x as `place` has it.
template <class Pairs, int K, bool natural, int panel>
__global__ void __launch_bounds__(32 * kHalves, 1) warpgroup_product_kernel(const ProductArgs args) {
  extern __shared__ unsigned char shared[];
  __shared__ uint64_t full[kRing], empty[kRing];
  constexpr int bytes = panel * 128;  // of a chunk: rows of 128, eight of which lie as the instruction wants them where 1024 divides
  const uint32_t start = shared_address(shared), ring = (start + 1023) / 1024 * 1024;
  const Pairs pairs(args.entries, shared + (ring - start) + kRing * bytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, c = lane % 4, r = warp / 4 % 2;
  const int chunks = (args.n + 63) / 64, strips = (args.m + 31) / 32, wanted = static_cast<int>(blockIdx.x) * kStrips + warp / 8 * 4 + warp % 4;
  const int strip = min(wanted, strips - 1);
  const int first = static_cast<int>(static_cast<int64_t>(chunks) * blockIdx.y / gridDim.y);
  const int count = static_cast<int>(static_cast<int64_t>(chunks) * (blockIdx.y + 1) / gridDim.y) - first;

  const uint32_t* const packed = args.packed + (static_cast<int64_t>(strip) * chunks + first) * 64 * K;
  HalfChunk<K> ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) ahead[i].load(packed + min(i, count - 1) * 64 * K, r, lane);
  const unsigned char* const x = reinterpret_cast<const unsigned char*>(args.x) + (static_cast<int64_t>(blockIdx.z) * chunks + first) * bytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kRing; ++i) open(full[i], 1), open(empty[i], kHalves);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    wait_for_previous();
    for (int i = 0; i < kComing && i < count; ++i) bring(ring + i * bytes, x + static_cast<int64_t>(i) * bytes, bytes, full[i]);
  }
  __syncthreads();
  let_next_begin();

  float d[panel / 2] = {};
  for (int i = 0, slot = 0, odd = 0; i < count; ++i) {
    const Stretch<K> bits(ahead[0].word);
#pragma unroll
    for (int j = 0; j + 1 < kAhead; ++j) ahead[j] = ahead[j + 1];
    ahead[kAhead - 1].load(packed + min(i + kAhead, count - 1) * 64 * K, r, lane);
    multiplied<0>();  // what was decoded into these registers before
    if (i > 0 && lane == 0) arrive(empty[slot == 0 ? kRing - 1 : slot - 1]);
    if (threadIdx.x == 0 && i + kComing < count) {
      const int to = slot < 2 ? slot + kComing : slot - 2;  // where the chunk before the last was
      if (i >= 2) wait(empty[to], slot < 2 ? odd ^ 1 : odd);
      bring(ring + to * bytes, x + static_cast<int64_t>(i + kComing) * bytes, bytes, full[to]);
    }
    __syncwarp();
    uint32_t a[4][4];
    const auto take = [&]<int k>(std::integral_constant<int, k>) {
      if constexpr (natural) {
        a[k][0] = pairs.template of<K, 4 * k>(bits), a[k][1] = pairs.template of<K, 16 + 4 * k>(bits);
        a[k][2] = pairs.template of<K, 4 * k + 2>(bits), a[k][3] = pairs.template of<K, 18 + 4 * k>(bits);
      } else {
        a[k][0] = pairs.template of<K, 8 * k>(bits), a[k][1] = pairs.template of<K, 8 * k + 2>(bits);
        a[k][2] = pairs.template of<K, 8 * k + 4>(bits), a[k][3] = pairs.template of<K, 8 * k + 6>(bits);
      }
    };
    take(std::integral_constant<int, 0>{}), take(std::integral_constant<int, 1>{});
    take(std::integral_constant<int, 2>{}), take(std::integral_constant<int, 3>{});
    wait(full[slot], odd);
    // Rows of 128 bytes whose parts are swizzled, eight rows after 1024 bytes.
    const uint64_t of = (ring + slot * bytes) / 16 | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 4; ++k) multiply(d, a[k], of + 2 * k);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (++slot == kRing) slot = 0, odd ^= 1;
  }
  multiplied<0>();

  // Rows g and g + 8 of an operand are rows 2g and 2g + 1 of a tile in natural order.
  const int row = strip * 32 + r * 16, top = blockIdx.z * panel;
  if (wanted >= strips || row >= args.m) return;
  float* const z = args.z + static_cast<int64_t>(blockIdx.y) * args.vectors * args.m + row;
#pragma unroll
  for (int tile = 0; tile < panel / 8; ++tile) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int vector = top + tile * 8 + c * 2 + j;
      if (vector >= args.vectors) continue;
      float* const to = z + static_cast<int64_t>(vector) * args.m;
      const float low = d[tile * 4 + j], high = d[tile * 4 + 2 + j];
      if constexpr (natural) *reinterpret_cast<float2*>(to + 2 * g) = make_float2(low, high);
      else to[g] = low, to[g + 8] = high;
    }
  }
}

}  // namespace ops::prompt
