// A packed matrix times a few vectors on a GPU: y[b, :] = Ŵ · x[b, :], from the states of a trellis code as `arrange` leaves them.
//
//   packed  u32 [m/32][n/64][words][lanes]…   a chunk: 32 rows × 64 columns. A lane owns eight neighbouring weights of a tile's walk (8K bits,
//           a segment) in each of 2 × 4 places; the states that begin in them need bits of the next segment too, which another lane has.
//           Words of a lane and row of tiles: 4 segments, one after the other from the low end.
//   x       the parts of the vectors, as `prepare` leaves them: B operands. y f32 [t, m].
//
// A state is the A operand of a matrix instruction, vectors are columns of B. A vector takes several columns, each a part of its digits,
// which cost nothing: the instruction has eight. f16 parts hold 11 bits each, bytes 8.
//
// Row g of A has lanes 4g … 4g + 3. In tensor-core order a tile's segments are made for it. In natural order a row of a tile is two
// segments: lanes 4g, 4g + 1 have row g of a tile, lanes 4g + 2, 4g + 3 row g of the tile right of it, and their second segments row g + 8.
#pragma once
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../../core/overlap.cuh"
#include "product_states.cuh"

namespace ops::product {

struct Args {
  const uint32_t* packed;
  const uint32_t* table;     // 512 pairs of f16, or null
  const unsigned char* x;    // [t][parts][columns up to a multiple of 64]
  const float* units;        // [t][1 + slots]: what a unit of the last digit is worth, and Σx in units (bytes), in pieces
  float* y;
  int m, n, t, slots;        // slots: at most 32
  uint32_t factor, addend;   // of computed codes
  float gain, offset;        // bytes: a value is (sum of bytes)·gain + offset
};

// ── codes: what a state is to the matrix instruction ──────────────────────────────────────────────────────────────────

// Where a block's own shared memory begins on every card since compute capability 8.0. As a constant it is part of the load; as a
// value it would be an addition a state, a seventh of the work.
constexpr uint32_t kSharedStart = 1024;

// HYB, Q = 9: an entry of the table, replicated for 32 lanes, so that no two lanes of a warp ever want the same bank.
// signs: both signs of every entry are in the table, 128 KB in place of 64, and one instruction a state less.
template <bool signs>
struct Hyb {
  static constexpr int V = 2, parts = 2;
  static constexpr bool bytes = false, clean = false;
  static constexpr int table_bytes = (signs ? 1024 : 512) * 32 * 4;
  uint32_t lane;  // its bytes in a row of the table; or-ed in, so that mask and sum are one instruction
  __device__ explicit Hyb(const Args&) : lane(threadIdx.x % 32 * 4) {}
  template <int warps>
  __device__ static void fill(const Args& args, unsigned char* shared) {
    if (__cvta_generic_to_shared(shared) != kSharedStart) __trap();
    constexpr int rows = 512 / warps;  // of a warp
    static_assert(rows <= 32);
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * rows;
    const uint32_t mine = __ldg(args.table + first + lane % rows);
#pragma unroll
    for (int i = 0; i < rows; i += 4) {
      const uint32_t v = __shfl_sync(~0u, mine, i + lane / 8), w = v ^ 0x8000;
      uint4* const at = reinterpret_cast<uint4*>(shared) + (first + i) * 8 + lane;
      *at = make_uint4(v, v, v, v);
      if constexpr (signs) at[512 * 8] = make_uint4(w, w, w, w);
    }
  }
  // s may carry anything above its 16 bits: the hash looks at the low bits of s(s+1) alone.
  __device__ uint32_t operator()(uint32_t s) const {
    const uint32_t u = s * s + s;
    const uint32_t at = (u * 2 & (signs ? 0x1ff80 : 0xff80)) | lane;
    uint32_t value;
    asm volatile("ld.shared.u32 %0, [%1+%2];" : "=r"(value) : "r"(at), "n"(kSharedStart));
    return signs ? value : value ^ (u & 0x8000);
  }
};

struct Computed {
  static constexpr int V = 1;
  static constexpr bool clean = true;  // wants its 16 bits alone
  static constexpr int table_bytes = 0;
  uint32_t factor, addend;
  __device__ explicit Computed(const Args& args) : factor(args.factor), addend(args.addend) {}
  template <int warps>
  __device__ static void fill(const Args&, unsigned char*) {}
};

// mul1, 1mad: the sum of the bytes of s·factor + addend: four places along k of an integer instruction, x the same at all four.
struct Bytes : Computed {
  static constexpr int parts = 3;
  static constexpr bool bytes = true;
  using Computed::Computed;
  __device__ uint32_t operator()(uint32_t s) const { return s * factor + addend; }
};

// 3inst, mcg: two f16 numbers whose sum is the value: two places along k.
struct Halves : Computed {
  static constexpr int parts = 2;
  static constexpr bool bytes = false;
  uint32_t mask = 0x8fff8fff;  // in a register: one instruction takes one constant
  __device__ explicit Halves(const Args& args) : Computed(args) { asm volatile("" : "+r"(mask)); }
  __device__ uint32_t operator()(uint32_t s) const { return ((s * factor + addend) & mask) ^ 0x3b603b60; }
};

// ── instructions ──────────────────────────────────────────────────────────────────────────────────────────────────────

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// All threads of a block wrote what they had to; in turns, each by its parity.
template <int warps>
struct Meeting {
  uint32_t at;
  __device__ explicit Meeting(uint32_t at) : at(at) {
    if (threadIdx.x == 0) asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "n"(32 * warps) : "memory");
  }
  __device__ void arrive() const {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(at) : "memory");
  }
  __device__ void wait(uint32_t parity) const {
    uint32_t done = 0;
    while (!done) {
      asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(at), "r"(parity) : "memory");
    }
  }
};

// ── x as the columns of B ─────────────────────────────────────────────────────────────────────────────────────────────

// Where column j of 32 goes: lane c reads values 8c … 8c + 7, two for each matrix instruction's row pair.
template <int V>
__host__ __device__ constexpr int place(int j, bool natural) {
  if (natural) return j;
  const int k = j % 16;
  return k % 8 / 2 * 8 + j / 16 * 4 + (V == 2 ? k / 8 * 2 + k % 2 : k % 2 * 2 + k / 8);
}

__host__ __device__ constexpr int padded(int n) { return (n + 63) / 64 * 64; }

// ── the product ───────────────────────────────────────────────────────────────────────────────────────────────────────

constexpr int kRows = 32;  // of a chunk

// Columns of B, and how many sums a vector is added up in.
template <class Code>
constexpr int most_vectors(int groups) { return groups * 8 / Code::parts; }
template <class Code>
constexpr int sums_of_vector = Code::bytes ? Code::parts : 1;

// Blocks take neighbouring strips of 32 rows; the chunks of all of a block's strips go round among its warps.
template <class Code, int K, bool natural, int groups, int warps, int residents, int ahead>
__global__ void __launch_bounds__(32 * warps, residents) kernel(const Args args) {
  using Sum = std::conditional_t<Code::bytes, int, float>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int chunks = padded(args.n) / 64, strips = (args.m + kRows - 1) / kRows;
  const int first = static_cast<int>(static_cast<int64_t>(strips) * blockIdx.x / gridDim.x);
  const int last = static_cast<int>(static_cast<int64_t>(strips) * (blockIdx.x + 1) / gridDim.x);

  // Neither the states nor the table depend on x, so they are on their way before the kernel that makes x has ended.
  constexpr int words = 64 * K;  // of a chunk
  const uint32_t* coming = args.packed + (static_cast<int64_t>(first) * chunks + warp) * words + lane * (K % 2 == 0 ? 4 : 2);
  int left = (last - first) * chunks - warp;  // chunks from the one that comes to the block's end
  Chunk<K> queue[ahead];
  const auto fetch = [&](Chunk<K>& into) {
    if (left > 0) into.load(coming);
    coming += warps * words, left -= warps;
  };
#pragma unroll
  for (Chunk<K>& chunk : queue) fetch(chunk);
  let_next_begin();
  Code::template fill<warps>(args, shared);
  const Code code(args);
  const Walk<natural> walk(lane);
  const Meeting<warps> written(static_cast<uint32_t>(__cvta_generic_to_shared(shared + Code::table_bytes)));
  __syncthreads();
  wait_for_previous();

  // Columns beyond those there are repeat the last: nobody reads what comes of them.
  constexpr int size = Code::bytes ? 1 : 2;
  using Operands = std::conditional_t<Code::bytes, uint2, uint4>;
  const unsigned char* mine[groups];
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    mine[group] = args.x + static_cast<int64_t>(min(group * 8 + lane / 4, args.t * Code::parts - 1)) * padded(args.n) * size + lane % 4 * 8 * size;
  }
  int chunk = warp;
  const int sums = args.t * sums_of_vector<Code>, half = warps * sums * (kRows + 1);
  Sum* const partial = reinterpret_cast<Sum*>(shared + Code::table_bytes + 16);  // [2][warps][sums][kRows + 1]: strips take the two in turn
  Sum d[2][groups][4] = {};
  const auto step = [&](Chunk<K>& in) {
    Operands b[groups][2];
#pragma unroll
    for (int group = 0; group < groups; ++group) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) b[group][pair] = *reinterpret_cast<const Operands*>(mine[group] + (chunk * 64 + pair * 32) * size);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Window window[4];
      windows<K, natural>(in.word + r * K, walk, window);
      if (r == 1) fetch(in);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const Window &u = window[2 * pair], &v = window[2 * pair + 1];
        constexpr int step = K * Code::V;  // bits from state to state
        const auto at = [&]<int s>(const Window& w, std::integral_constant<int, s>) { return code(state<K, s * step, Code::clean>(w)); };
        const auto one = [&]<int i>(std::integral_constant<int, i>) {
          constexpr std::integral_constant<int, 2 * i> even;
          constexpr std::integral_constant<int, 2 * i + 1> odd;
          uint32_t a[4];
          if constexpr (natural) {
            a[0] = at(u, even), a[1] = at(v, even), a[2] = at(u, odd), a[3] = at(v, odd);
          } else if constexpr (Code::V == 2) {
            const Window& w = i == 0 ? u : v;
            a[0] = at(w, std::integral_constant<int, 0>{}), a[1] = at(w, std::integral_constant<int, 1>{});
            a[2] = at(w, std::integral_constant<int, 2>{}), a[3] = at(w, std::integral_constant<int, 3>{});
          } else {
            const Window& w = i < 2 ? u : v;
            a[0] = at(w, std::integral_constant<int, i % 2>{}), a[1] = at(w, std::integral_constant<int, i % 2 + 2>{});
            a[2] = at(w, std::integral_constant<int, i % 2 + 4>{}), a[3] = at(w, std::integral_constant<int, i % 2 + 6>{});
          }
#pragma unroll
          for (int group = 0; group < groups; ++group) {
            const Operands& x = b[group][pair];
            uint32_t b0, b1;
            if constexpr (Code::V == 2) {
              b0 = i == 0 ? x.x : x.z, b1 = i == 0 ? x.y : x.w;
            } else if constexpr (Code::bytes) {
              const uint32_t two = i < 2 ? x.x : x.y;
              b0 = __byte_perm(two, 0, i % 2 ? 0x2222 : 0x0000), b1 = __byte_perm(two, 0, i % 2 ? 0x3333 : 0x1111);
            } else {
              const uint32_t two = i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
              b0 = __byte_perm(two, 0, 0x1010), b1 = __byte_perm(two, 0, 0x3232);
            }
            mma(d[r][group], a, b0, b1);
          }
        };
        one(std::integral_constant<int, 0>{}), one(std::integral_constant<int, 1>{});
        if constexpr (Code::V == 1) one(std::integral_constant<int, 2>{}), one(std::integral_constant<int, 3>{});
      }
    }
    chunk += warps;
  };

  // A warp leaves its sums of a strip and goes on; when all have left theirs one adds them, lane by row, in one order always.
  const auto add = [&](int strip, bool everyone) {
    const int b = (warp - strip * args.t) & (warps - 1);
    if (everyone || b < args.t) written.wait((strip - first) & 1);
    if (b >= args.t) return;
    const Sum* const from = partial + ((strip - first) & 1) * half + b * sums_of_vector<Code> * (kRows + 1) + lane;
    std::conditional_t<Code::bytes, double, float> total = 0;
#pragma unroll
    for (int part = 0; part < sums_of_vector<Code>; ++part) {
      Sum sum = 0;
#pragma unroll 8
      for (int w = 0; w < warps; ++w) sum += from[(w * sums + part) * (kRows + 1)];
      if constexpr (Code::bytes) total = total * 256 + sum;
      else total = sum;
    }
    const float* const units = args.units + b * (1 + args.slots);
    float digits = 0;
    if constexpr (Code::bytes) {
      if (lane < args.slots) digits = units[1 + lane];
      for (int offset = 16; offset > 0; offset /= 2) digits += __shfl_xor_sync(~0u, digits, offset);
    }
    const int at = strip * kRows + lane;
    if (at >= args.m) return;
    float& y = args.y[static_cast<int64_t>(b) * args.m + at];
    if constexpr (Code::bytes) y = static_cast<float>((args.gain * total + args.offset * static_cast<double>(digits)) * units[0]);
    else y = total * units[0];
  };
  const auto finish = [&](int strip) {
    if (strip > first) add(strip - 1, true);  // the strip before that one is added as well: its place is free
    // Lane 4g + c holds rows g, g + 8 (and + 16) of columns 2c and 2c + 1. Both f16 parts of a vector are in one lane.
    Sum* const mine = partial + ((strip - first) & 1) * half + warp * sums * (kRows + 1) + lane / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int group = 0; group < groups; ++group) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Sum(&from)[4] = d[r][group];
          if constexpr (Code::bytes) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int column = group * 8 + lane % 4 * 2 + j;
              if (column < sums) mine[column * (kRows + 1) + r * 16 + i * 8] = from[2 * i + j];
            }
          } else {
            const int vector = group * 4 + lane % 4;
            if (vector < sums) mine[vector * (kRows + 1) + r * 16 + i * 8] = from[2 * i] + from[2 * i + 1];
          }
          from[2 * i] = from[2 * i + 1] = 0;
        }
      }
    }
    written.arrive();
  };
  int strip = first;
  const auto more = [&] {  // whether there is a chunk; ends the strips that are done
    while (chunk >= chunks) {
      finish(strip);
      chunk -= chunks;
      if (++strip == last) return false;
    }
    return true;
  };
  while (more()) {
    step(queue[0]);
    if constexpr (ahead == 2) {
      if (!more()) break;
      step(queue[1]);
    }
  }
  add(last - 1, false);
}

// Of a block, for t vectors.
template <class Code>
constexpr int shared_bytes(int warps, int t) { return Code::table_bytes + 16 + 2 * warps * t * sums_of_vector<Code> * (kRows + 1) * 4; }

// overlap: the kernel may begin while the one before it in the stream still runs, and waits where it needs what that writes.
template <class Code, int K, bool natural, int groups, int warps, int residents, int ahead>
cudaError_t launch(const Args& args, int blocks, bool overlap, cudaStream_t stream) {
  const auto function = kernel<Code, K, natural, groups, warps, residents, ahead>;
  const int bytes = shared_bytes<Code>(warps, args.t);
  const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const int strips = (args.m + kRows - 1) / kRows;
  return ops::launch(function, std::min(blocks, strips), 32 * warps, bytes, stream, overlap, args);
}

}  // namespace ops::product
