// What a matrix instruction takes of a scheduler that has other instructions to issue, without Node:
//
//   nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a bench/matrix_rates_cuda.cu -o matrix-rates
//   matrix-rates
//
// Products with packed weights decode states by permutes and multiplications, one of each in turn here, and multiply what comes out by few vectors.
// A warp makes the four registers of A of four matrix instructions, 16 registers, by so many instructions, then issues the four; 24 warps of a
// multiprocessor do so, six a scheduler, each with two sets of registers. Printed: a scheduler's cycles for a warp's turn, and how many of them are
// more than its instructions, for each matrix instruction. mma: m16n8k16 (f16), m16n8k32 (u8 · s8). wgmma: A from registers, m64n8 and m64n16; and m64n128
// as prompts have it, by 16 warps, which has 64 cycles of matrix units to do.
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

#include "replays.cuh"

namespace {

constexpr int kSchedulers = 4, kTurns = 2000;
enum class Kind { none, mma, wgmma8, wgmma16, wgmma128 };
constexpr int warps_of(bool prompt) { return prompt ? 16 : 24; }

// d += a · B, B being whatever shared memory has at `b`: what is computed does not matter.
template <Kind kind, bool bytes>
__device__ void multiply(uint32_t (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (kind == Kind::mma && !bytes) {
    float(&f)[64] = reinterpret_cast<float(&)[64]>(d);
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(static_cast<uint32_t>(b)), "r"(static_cast<uint32_t>(b >> 32)));
  } else if constexpr (kind == Kind::mma) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(static_cast<uint32_t>(b)), "r"(static_cast<uint32_t>(b >> 32)));
  } else if constexpr (kind == Kind::wgmma8 && !bytes) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1, 0;"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (kind == Kind::wgmma8) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k32.s32.u8.s8 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1;"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (kind == Kind::wgmma16 && !bytes) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1, 1, 1, 0;"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (kind == Kind::wgmma16) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1;"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (kind == Kind::wgmma128) {
#define D8(i) "%" #i "0, %" #i "1, %" #i "2, %" #i "3, %" #i "4, %" #i "5, %" #i "6, %" #i "7, %" #i "8, %" #i "9, "
#define R4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define R16(i) R4(i), R4(i + 4), R4(i + 8), R4(i + 12)
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, " D8(1) D8(2) D8(3) D8(4) D8(5)
                 "%60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
                 : R16(0), R16(16), R16(32), R16(48) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#undef D8
#undef R4
#undef R16
  }
}

template <Kind kind, bool bytes, int ops, int warps>
__global__ void __launch_bounds__(32 * warps, 1) turns(uint32_t* out, int64_t* cycles, uint32_t factor) {
  __shared__ __align__(1024) uint32_t shared[6144];
  constexpr bool async = kind >= Kind::wgmma8;
  for (int i = threadIdx.x; i < 6144; i += 32 * warps) shared[i] = 0;
  // A descriptor without a swizzle: the address, and 128 and 256 bytes between eights of columns and rows, in units of 16.
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared + threadIdx.x / 128 * 256));
  const uint64_t b = (at & 0x3ffff) >> 4 | uint64_t{128 >> 4} << 16 | uint64_t{256 >> 4} << 32;
  uint32_t a[2][4][4], d[64] = {};
#pragma unroll
  for (int i = 0; i < 32; ++i) a[i / 16][i / 4 % 4][i % 4] = threadIdx.x * 77 + i;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const int64_t begin = clock64();
#pragma unroll 1
  for (int turn = 0; turn < kTurns; turn += 2) {
#pragma unroll
    for (int set = 0; set < 2; ++set) {
#pragma unroll
      for (int i = 0; i < ops / 2; ++i) {
        uint32_t& r = a[set][i / 4 % 4][i % 4];
        asm volatile("prmt.b32 %0, %0, %1, 0x4321;" : "+r"(r) : "r"(factor));
        asm volatile("mad.lo.u32 %0, %0, %1, %0;" : "+r"(r) : "r"(factor));
      }
      if constexpr (async) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int i = 0; i < 4; ++i) multiply<kind, bytes>(d, a[set][i], b);
      // The other set's are done, so that it may be written; these go on.
      if constexpr (async) asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
  }
  if constexpr (async) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  const int64_t end = clock64();
  uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < 64; ++i) all ^= a[i / 16 % 2][i / 4 % 4][i % 4] ^ d[i];
  out[blockIdx.x * 32 * warps + threadIdx.x] = all;
  if (threadIdx.x == 0) cycles[blockIdx.x] = end - begin;
}

template <Kind kind, bool bytes, int ops, bool prompt = false>
double cycles(int sm) {
  constexpr int warps = warps_of(prompt);
  uint32_t* const out = upload(std::vector<uint32_t>(sm * 32 * warps));
  const double best = least_cycles(sm, 3, [&](int64_t* each) { turns<kind, bytes, ops, warps><<<sm, 32 * warps>>>(out, each, 0x83dcd12d); });
  cudaFree(out);
  return best / kTurns / (warps / kSchedulers);
}

template <bool bytes, int ops>
void row(int sm, bool last) {
  std::printf("  {\"A\": \"%s\", \"instructions\": %d, \"alone\": %.1f", bytes ? "u8" : "f16", ops, cycles<Kind::none, bytes, ops>(sm));
  const auto print = [](const char* name, double all) { std::printf(", \"%s\": %.1f, \"%s each\": %.1f", name, all, name, (all - ops) / 4); };
  print("mma", cycles<Kind::mma, bytes, ops>(sm));
  print("wgmma n8", cycles<Kind::wgmma8, bytes, ops>(sm)), print("wgmma n16", cycles<Kind::wgmma16, bytes, ops>(sm));
  if constexpr (!bytes) print("wgmma n128", cycles<Kind::wgmma128, bytes, ops, true>(sm));
  std::printf("}%s\n", last ? "" : ",");
}

}  // namespace

int main() {
  return print_rows([](int sm) {
    row<false, 0>(sm, false), row<false, 32>(sm, false), row<false, 64>(sm, false), row<false, 96>(sm, false), row<false, 128>(sm, false);
    row<true, 0>(sm, false), row<true, 32>(sm, false), row<true, 64>(sm, false), row<true, 96>(sm, true);
  });
}
