// Matrix times a few vectors, straight from the packed states of a trellis code: y[b, :] = Ŵ · x[b, :].
//
//   packed  u32 [m/32][n/64][words][lanes]…   chunk: 32 rows × 64 columns, that is 2 × 4 tiles in tensor-core order (kernel-layout.ts).
//           A lane owns 8K bits of each tile; the states 4ℓ … 4ℓ+3 (V = 2) or 8ℓ … 8ℓ+7 (V = 1) begin in them, and what the last of
//           them need beyond is the next lane's. Words of a lane: tiles' numbers of 8K bits, one after the other from the low end.
//   x       the parts of the vectors, as `prepare` leaves them: B operands. y f32 [batch, m].
//
// A decoded state is the A operand of a matrix instruction, the vectors are columns of B. A vector takes several columns, each
// a part of its digits, which cost nothing: the instruction has eight. f16 parts hold 11 bits each, bytes 8.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace ops::product {

struct Args {
  const uint32_t* packed;
  const uint32_t* table;     // 512 pairs of f16, or null
  const unsigned char* x;    // [batch][parts][tiles of 16 columns][4 lanes][4 values]
  const float* units;        // [batch][2]: what a unit of the first part is worth, and Σx in units (bytes)
  float* y;
  int m, n;
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
  static constexpr bool bytes = false;
  static constexpr size_t table_bytes = (signs ? 1024 : 512) * 32 * 4;
  uint32_t lane;  // its bytes in a row of the table; or-ed in, so that mask and sum are one instruction
  __device__ explicit Hyb(const unsigned char* shared) : lane(threadIdx.x % 32 * 4) {
    if (__cvta_generic_to_shared(shared) != kSharedStart) __trap();
  }
  __device__ static void fill(const uint32_t* table, unsigned char* shared) {
    for (int i = threadIdx.x; i < static_cast<int>(table_bytes / 16); i += blockDim.x) {
      const uint32_t v = __ldg(table + (i / 8 & 511)) ^ (i / 8 & 512) << 6;
      reinterpret_cast<uint4*>(shared)[i] = make_uint4(v, v, v, v);
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
  static constexpr float gain = 1, offset = 0;
};

// Sums of the bytes of s·c + d: four bytes are four places along k of an integer instruction, x the same at all four.
// which: 0 mul1, whose value is the sum times and plus the f16 constants of its definition; 1 1mad, (sum − 510)/147.8.
template <uint32_t c, uint32_t d, int which>
struct Bytes {
  static constexpr int V = 1, parts = 3;
  static constexpr bool bytes = true;
  static constexpr size_t table_bytes = 0;
  __device__ explicit Bytes(const unsigned char*) {}
  __device__ static void fill(const uint32_t*, unsigned char*) {}
  __device__ uint32_t operator()(uint32_t s) const { return (s & 0xffff) * c + d; }
  static constexpr double gain = which == 0 ? 0.00676727294921875 : 1 / 147.800537109375;
  static constexpr double offset = which == 0 ? 1024 * 0.00676727294921875 - 10.3828125 : -510 / 147.800537109375;
};
using Mul1 = Bytes<0x83DCD12Du, 0, 0>;
using Mad1 = Bytes<34038481u, 76625530u, 1>;

// Two f16 numbers whose sum is the value: two places along k.
template <uint32_t c, uint32_t d>
struct Halves {
  static constexpr int V = 1, parts = 2;
  static constexpr bool bytes = false;
  static constexpr size_t table_bytes = 0;
  __device__ explicit Halves(const unsigned char*) {}
  __device__ static void fill(const uint32_t*, unsigned char*) {}
  __device__ uint32_t operator()(uint32_t s) const { return (((s & 0xffff) * c + d) & 0x8fff8fff) ^ 0x3b603b60; }
  static constexpr float gain = 1, offset = 0;
};
using Inst3 = Halves<89226354u, 64248484u>;
using Mcg = Halves<0xCBAC1FEDu, 0>;

// ── instructions ──────────────────────────────────────────────────────────────────────────────────────────────────────

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The kernel before this one in the stream may still run until here; the one after may begin.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// ── bits of a chunk ───────────────────────────────────────────────────────────────────────────────────────────────────

template <int K>
struct Chunk {
  uint32_t word[2 * K];  // [row tile][K]: the 8K bits of four tiles
  __device__ void load(const uint32_t* chunk, int lane) {
    if constexpr (K % 2 == 0) {
#pragma unroll
      for (int i = 0; i < K / 2; ++i) {
        const uint4 v = __ldcs(reinterpret_cast<const uint4*>(chunk) + i * 32 + lane);
        word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < K; ++i) {
        const uint2 v = __ldcs(reinterpret_cast<const uint2*>(chunk) + i * 32 + lane);
        word[2 * i] = v.x, word[2 * i + 1] = v.y;
      }
    }
  }
};

// This lane's bits of a tile and the next lane's first: high begins with the lane's own, low 8 (K = 3) or 16 (K = 4) bits later.
struct Window {
  uint32_t high, low;
};

// Windows of four tiles from their K words.
template <int K>
__device__ inline void windows(const uint32_t* word, int lane, Window (&out)[4]) {
  const int from = (lane + 1) & 31;
  if constexpr (K == 1) {
    const uint32_t own = word[0], n1 = __shfl_sync(~0u, own, from), n2 = __shfl_sync(~0u, own, (lane + 2) & 31);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t two = __byte_perm(n1, own, t | (4 + t) << 4);
      out[t].high = __byte_perm(n2, two, 0x5400 | t << 4);  // a byte of this lane, of the next, of the next but one
    }
  } else if constexpr (K == 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t own = word[i], next = __shfl_sync(~0u, own, from);
      out[2 * i].high = __byte_perm(next, own, 0x5410);
      out[2 * i + 1].high = __byte_perm(next, own, 0x7632);
    }
  } else if constexpr (K == 3) {
    // Their 24 bits, and dirt above.
    const uint32_t own[4] = {word[0], __funnelshift_r(word[0], word[1], 24), __funnelshift_r(word[1], word[2], 16), word[2] >> 8};
    const uint32_t top0 = __byte_perm(own[0], own[1], 0x6521), top1 = __byte_perm(own[2], own[3], 0x6521);  // their first 16 bits
    const uint32_t next0 = __shfl_sync(~0u, top0, from), next1 = __shfl_sync(~0u, top1, from);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t next = t < 2 ? next0 : next1;
      out[t].high = __byte_perm(next, own[t], t % 2 ? 0x6543 : 0x6541);  // own 24 bits, 8 of the next
      out[t].low = __byte_perm(next, own[t], t % 2 ? 0x5432 : 0x5410);   // own last 16, 16 of the next
    }
  } else {
    uint32_t tops[2] = {__byte_perm(word[0], word[1], 0x7632), __byte_perm(word[2], word[3], 0x7632)};
#pragma unroll
    for (int i = 0; i < 2; ++i) tops[i] = __shfl_sync(~0u, tops[i], from);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      out[t].high = word[t];
      out[t].low = __byte_perm(tops[t / 2], word[t], t % 2 ? 0x5432 : 0x5410);  // own last 16, 16 of the next
    }
  }
}

// The state that begins `at` bits into the lane's own: 16 bits, anything above.
template <int K, int at>
__device__ inline uint32_t state(const Window& w) {
  if constexpr (at <= 16) return w.high >> (16 - at);
  else if constexpr (K == 3) return w.low >> (24 - at);  // low begins at bit 8
  else return w.low >> (32 - at);                        // low begins at bit 16
}

// ── x as the columns of B ─────────────────────────────────────────────────────────────────────────────────────────────

// Bytes of a part: for each tile and lane c the four values at columns 2c, 2c+1, 2c+8, 2c+9.
template <class Code>
__host__ __device__ constexpr int part_bytes(int n) { return (n + 63) / 64 * 64 * (Code::bytes ? 1 : 2); }

// One block a vector: x f32 [n] → its parts and units. The largest entry becomes 1024 (f16) or 127·2^16 (bytes).
template <class Code>
__global__ void __launch_bounds__(1024) prepare(const float* vectors, unsigned char* parts, float* units, int n) {
  __shared__ float scratch[64];
  const float* const x = vectors + static_cast<int64_t>(blockIdx.x) * n;
  const int bytes = part_bytes<Code>(n);
  unsigned char* const to = parts + static_cast<int64_t>(blockIdx.x) * Code::parts * bytes;
  float most = 0;
  for (int i = threadIdx.x; i < n; i += 1024) most = fmaxf(most, fabsf(x[i]));
  for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, offset));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = most;
  __syncthreads();
  most = scratch[threadIdx.x % 32];
  for (int offset = 16; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, offset));
  const float unit = most == 0 ? 1 : most / (Code::bytes ? 127.0f * 65536.0f : 1024.0f), inverse = 1 / unit;
  int total = 0;  // of bytes: up to 64 terms a thread of 23 bits
  for (int i = threadIdx.x; i < (n + 63) / 64 * 64; i += 1024) {
    const float v = i < n ? x[i] * inverse : 0;
    const int place = i / 16 * 16 + i % 8 / 2 * 4 + i % 16 / 8 * 2 + i % 2;
    if constexpr (Code::bytes) {
      int q = __float2int_rn(v);
      total += q;
      const int low = static_cast<signed char>(q);
      q = (q - low) >> 8;
      const int middle = static_cast<signed char>(q);
      to[place] = static_cast<unsigned char>((q - middle) >> 8), to[bytes + place] = static_cast<unsigned char>(middle);
      to[2 * bytes + place] = static_cast<unsigned char>(low);
    } else {
      const __half high = __float2half_rn(v);
      reinterpret_cast<__half*>(to)[place] = high;
      reinterpret_cast<__half*>(to + bytes)[place] = __float2half_rn(v - __half2float(high));
    }
  }
  float sum = static_cast<float>(total);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) scratch[32 + threadIdx.x / 32] = sum;
  __syncthreads();
  sum = scratch[32 + threadIdx.x % 32];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x == 0) units[2 * blockIdx.x] = unit, units[2 * blockIdx.x + 1] = sum;
}

// ── the product ───────────────────────────────────────────────────────────────────────────────────────────────────────

constexpr int kRows = 32;  // of a chunk

// Blocks take neighbouring strips of 32 rows, warps every `warps`-th chunk of a strip.
template <class Code, int K, int batch, int warps>
__global__ void __launch_bounds__(32 * warps, 1) kernel(const Args args) {
  constexpr int ahead = K <= 2 ? 2 : 1, columns = batch * Code::parts;
  using Sum = std::conditional_t<Code::bytes, int, float>;
  extern __shared__ __align__(16) unsigned char shared[];
  Sum* const partial = reinterpret_cast<Sum*>(shared + Code::table_bytes);  // [warps][columns][33]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int chunks = (args.n + 63) / 64, strips = (args.m + kRows - 1) / kRows;
  const int first = static_cast<int>(static_cast<int64_t>(strips) * blockIdx.x / gridDim.x);
  const int last = static_cast<int>(static_cast<int64_t>(strips) * (blockIdx.x + 1) / gridDim.x);

  // Neither the states nor the table depend on x, so they are on their way before the kernel that makes x has ended.
  constexpr int words = 64 * K;  // of a chunk
  const uint32_t* coming = args.packed + (static_cast<int64_t>(first) * chunks + warp) * words;
  int coming_strip = first, coming_chunk = warp;
  Chunk<K> queue[ahead];
  const auto fetch = [&](Chunk<K>& into) {
    if (coming_chunk >= chunks) {  // the next strip follows at once
      coming += (warp - coming_chunk + chunks) * words, coming_chunk = warp, ++coming_strip;
    }
    if (coming_strip < last && coming_chunk < chunks) into.load(coming, lane);
    coming += warps * words, coming_chunk += warps;
  };
#pragma unroll
  for (Chunk<K>& chunk : queue) fetch(chunk);
  let_next_begin();
  Code::fill(args.table, shared);
  __syncthreads();
  const Code code(shared);
  wait_for_previous();

  // Columns beyond those there are repeat the last: nobody reads what comes of them.
  constexpr int tile_bytes = Code::bytes ? 16 : 32;
  const unsigned char* const mine = args.x + static_cast<int64_t>(min(lane / 4, columns - 1)) * part_bytes<Code>(args.n) + lane % 4 * (tile_bytes / 4);
  for (int strip = first; strip < last; ++strip) {
    Sum d[2][4] = {};
    for (int chunk = warp; chunk < chunks; chunk += warps) {
      const unsigned char* const x = mine + chunk * (4 * tile_bytes);
      uint2 b[4];
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        if constexpr (Code::bytes) b[t].x = *reinterpret_cast<const uint32_t*>(x + t * tile_bytes);
        else b[t] = *reinterpret_cast<const uint2*>(x + t * tile_bytes);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        Window window[4];
        windows<K>(queue[0].word + r * K, lane, window);
        if (r == 1) {
#pragma unroll
          for (int q = 0; q + 1 < ahead; ++q) queue[q] = queue[q + 1];
          fetch(queue[ahead - 1]);
        }
#pragma unroll
        for (int t = 0; t < 4; ++t) {
          const Window& w = window[t];
          const uint32_t even[4] = {code(state<K, 0>(w)), code(state<K, 2 * K>(w)), code(state<K, 4 * K>(w)), code(state<K, 6 * K>(w))};
          if constexpr (Code::V == 2) {
            mma(d[r], even, b[t].x, b[t].y);
          } else {
            const uint32_t odd[4] = {code(state<K, K>(w)), code(state<K, 3 * K>(w)), code(state<K, 5 * K>(w)), code(state<K, 7 * K>(w))};
            if constexpr (Code::bytes) {
              mma(d[r], even, __byte_perm(b[t].x, 0, 0x0000), __byte_perm(b[t].x, 0, 0x2222));
              mma(d[r], odd, __byte_perm(b[t].x, 0, 0x1111), __byte_perm(b[t].x, 0, 0x3333));
            } else {
              mma(d[r], even, __byte_perm(b[t].x, 0, 0x1010), __byte_perm(b[t].y, 0, 0x1010));
              mma(d[r], odd, __byte_perm(b[t].x, 0, 0x3232), __byte_perm(b[t].y, 0, 0x3232));
            }
          }
        }
      }
    }
    // Lane 4g + c holds rows g, g + 8 (and + 16) of columns 2c and 2c + 1.
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int column = lane % 4 * 2 + i % 2, row = i / 4 * 16 + i % 4 / 2 * 8 + lane / 4;
      if (column < columns) partial[(warp * columns + column) * (kRows + 1) + row] = d[i / 4][i % 4];
    }
    __syncthreads();
    // A warp takes every `warps`-th sum; its lanes the warps' terms: one order always.
    for (int i = warp; i < kRows * batch; i += warps) {
      const int b = i / kRows, row = i % kRows;
      std::conditional_t<Code::bytes, double, float> total = 0;
#pragma unroll
      for (int part = 0; part < Code::parts; ++part) {
        Sum v = lane < warps ? partial[(lane * columns + b * Code::parts + part) * (kRows + 1) + row] : Sum{};
        for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
        if constexpr (Code::bytes) total = total * 256 + v;
        else total += v;
      }
      const int at = strip * kRows + row;
      if (lane == 0 && at < args.m) {
        const float unit = args.units[2 * b];
        float& y = args.y[static_cast<int64_t>(b) * args.m + at];
        if constexpr (Code::bytes) y = static_cast<float>((Code::gain * total + Code::offset * args.units[2 * b + 1]) * unit);
        else y = total * unit;
      }
    }
    __syncthreads();
  }
}

template <class Code, int K, int batch, int warps>
cudaError_t launch(const Args& args, int multiprocessors, cudaStream_t stream) {
  static_assert(batch * Code::parts <= 8);
  constexpr size_t bytes = Code::table_bytes + warps * batch * Code::parts * (kRows + 1) * 4;
  static const cudaError_t error = cudaFuncSetAttribute(kernel<Code, K, batch, warps>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = multiprocessors, config.blockDim = 32 * warps, config.dynamicSmemBytes = bytes, config.stream = stream;
  config.attrs = &attribute, config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel<Code, K, batch, warps>, args);
}

}  // namespace ops::product
