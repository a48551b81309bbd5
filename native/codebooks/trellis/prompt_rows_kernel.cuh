// defines: rows_kernel, prompt_kernel.cuh's transforms by the instructions of compute capability 9.0a (wgmma), for rows of which one f16 number is kept.
//
// A row is [factor][w]. Four or eight neighbouring lanes have a run, 16 numbers each: S along it is sums in registers and shuffles. In units of
// the row, as f16, it goes to shared memory, swizzled as the instruction wants a B operand whose rows are 64 columns. M lies there for all rows
// that the block makes, brought while the kernel before still runs; a group of four warps makes 64 runs by 64 columns. Inputs come by bulk copies,
// those of the next rows while one is made.
#pragma once
#include "prompt_kernel.cuh"
#include "prompt_rows.h"
#include "prompt_warpgroup_kernel.cuh"

namespace ops::prompt {

enum class Rows { scaled, normed, gated, finished };

constexpr int kTileBytes = 8192;  // 64 rows of 64 f16

constexpr int kMostSlots = 16;

// Shared memory: M, S·x as f16, and rows of f32 that come.
inline size_t rows_bytes(const RowShape& s, int slots) {
  const size_t tiles = (s.factor + 63) / 64, steps = (s.factor + 15) / 16;
  return 1024 + tiles * tiles * kTileBytes + steps * 32 * s.w + static_cast<size_t>(slots) * s.factor * s.w * 4;
}

#define D8(i) "%" #i "0, %" #i "1, %" #i "2, %" #i "3, %" #i "4, %" #i "5, %" #i "6, %" #i "7, %" #i "8, %" #i "9, "
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
// d [64, 64] = a [64, 16] · b [16, 64], all columns of a row of b beside each other; added to d where `more`.
__device__ inline void multiply(float (&d)[32], uint64_t a, uint64_t b, int more) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, "
               D8(1) D8(2) "%30, %31}, %32, %33, p, 1, 1, 0, 1; }" : F16(0), F16(16) : "l"(a), "l"(b), "r"(more));
}
#undef D8
#undef F4
#undef F16

__device__ inline uint32_t half_pair(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
// Eight rows of 128 bytes, whose parts are swizzled, after each other.
__device__ inline uint64_t operand(uint32_t address) { return address / 16 | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62; }

__device__ inline float4 sum(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float4 difference(float4 a, float4 b) { return {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w}; }
__device__ inline float4 gate(float4 x) { return {fast_silu(x.x), fast_silu(x.y), fast_silu(x.z), fast_silu(x.w)}; }
__device__ inline void butterfly(float& a, float& b) {
  const float first = a;
  a = first + b, b = first - b;
}

// S along runs: of a lane's numbers two bits of the place are the least, two the most significant, what is between is the lane's.
template <int kRuns>
__device__ void along_lanes(float4 (&v)[kRuns][4], int lanes) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      butterfly(v[r][i].x, v[r][i].y), butterfly(v[r][i].z, v[r][i].w);
      butterfly(v[r][i].x, v[r][i].z), butterfly(v[r][i].y, v[r][i].w);
    }
#pragma unroll
    for (int half = 1; half < 4; half *= 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i & half) continue;
        const float4 a = v[r][i], b = v[r][i + half];
        v[r][i] = sum(a, b), v[r][i + half] = difference(a, b);
      }
    }
  }
  for (int step = 1; step < lanes; step *= 2) {
    const float sign = threadIdx.x & step ? -1.0f : 1.0f;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float4& x = v[r][i];
        x.x = fmaf(sign, x.x, __shfl_xor_sync(~0u, x.x, step)), x.y = fmaf(sign, x.y, __shfl_xor_sync(~0u, x.y, step));
        x.z = fmaf(sign, x.z, __shfl_xor_sync(~0u, x.z, step)), x.w = fmaf(sign, x.w, __shfl_xor_sync(~0u, x.w, step));
      }
    }
  }
}

// 64 columns of a run as f16: lane c of four has pairs 4j + c.
__device__ inline void write_parts(const RowParts& to, int64_t row, int n, int chunk, bool inside, const uint32_t (&pair)[8]) {
  const int c = threadIdx.x % 4;
  uint32_t* const out = reinterpret_cast<uint32_t*>(to.parts);
  if (to.panel > 0) {  // what lies beside each other in a panel is one lane's
    if (!inside) return;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      *reinterpret_cast<uint4*>(out + place(row, chunk * 32 + 4 * s + c, n / 64, to.panel, to.natural)) =
          make_uint4(pair[s], pair[s + 2], pair[s + 4], pair[s + 6]);
    }
    return;
  }
#pragma unroll
  for (int q = 0; q < 4; ++q) {  // neighbours swap, so that four lanes write 32 bytes
    const bool odd = c % 2;
    const uint32_t other = __shfl_xor_sync(~0u, odd ? pair[2 * q] : pair[2 * q + 1], 1);
    const uint2 both = odd ? make_uint2(other, pair[2 * q + 1]) : make_uint2(pair[2 * q], other);
    if (inside) *reinterpret_cast<uint2*>(out + row * (n / 2) + chunk * 32 + 4 * (2 * q + odd) + c / 2 * 2) = both;
  }
}

// The same of y: lane c has columns 8j + 2c and the next.
__device__ inline void write_finished(const RowTransform& of, int64_t row, int64_t column, float scale, const float (&d)[32], int h) {
  const auto pairs = [&](const float* from, int j) { return __ldg(reinterpret_cast<const float2*>(from + column + j * 8)); };
  float2 y[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 after = pairs(of.after, j);
    y[j] = {d[j * 4 + h * 2] * scale * after.x, d[j * 4 + h * 2 + 1] * scale * after.y};
  }
  if (of.add) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 add = pairs(of.add + row * of.n, j);
      y[j].x += add.x, y[j].y += add.y;
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) *reinterpret_cast<float2*>(of.y + row * of.n + column + j * 8) = y[j];
}

// Rows of all outputs, dealt to blocks of kGroups · 128 threads with kRuns times 16 numbers each. finished: y = (x·Hᵀ) ⊙ after + add, x in units of
// each row, the sum of `pieces` [t, stride]; else (x ⊙ before)·H as f16 in units of each row.
template <Rows kind, int kGroups, int kRuns>
__global__ void __launch_bounds__(kGroups * 128, kGroups == 1 ? 4 : 1)
    rows_kernel(const RowTransforms transforms, const RowParts to, int t, int count, int pieces, int slots) {
  constexpr int kWide = kGroups * 128;
  extern __shared__ unsigned char shared[];
  __shared__ uint64_t there, full[kMostSlots];
  __shared__ float2 sums[2][kGroups * 4];
  const int n = transforms.of[0].n, factor = transforms.of[0].factor, w = transforms.of[0].w, lanes = w / 16, bits = __ffs(lanes) - 1, groups = w / 64;
  const int tiles = (factor + 63) / 64, steps = (factor + 15) / 16, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t start = (shared_address(shared) + 1023) / 1024 * 1024, rows_at = start + tiles * tiles * kTileBytes;
  unsigned char* const rows = shared + (rows_at - shared_address(shared));
  const float* const inputs = reinterpret_cast<const float*>(rows + steps * 32 * w);
  const int items = t * count, mine = (items - 1 - static_cast<int>(blockIdx.x)) / static_cast<int>(gridDim.x) + 1;
  const int each = kind == Rows::gated ? 2 : kind == Rows::finished ? pieces : 1;  // inputs of a row
  // Input q of all that this block reads.
  const auto fetch = [&](int q) {
    const int item = blockIdx.x + q / each * gridDim.x, which = q % each;
    const RowTransform& of = transforms.of[item / t];
    const int64_t b = item % t;
    const int64_t row = kind == Rows::finished ? b + which * static_cast<int64_t>(t) : b;
    const bool is_gate = kind == Rows::gated && which == 1;
    bring(rows_at + steps * 32 * w + q % slots * n * 4, is_gate ? of.gate + b * n : of.x + row * of.stride, n * 4, full[q % slots]);
  };
  if (threadIdx.x == 0) {
    open(there, 1);
    for (int i = 0; i < slots; ++i) open(full[i], 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    bring(start, transforms.of[0].mix, tiles * tiles * kTileBytes, there);
  }
  // Runs that there are not are zeros.
  const int after_last = steps * 16 - factor;
  for (int at = threadIdx.x; at < after_last * w / 8; at += kWide) {
    const int group = at / (after_last * 8), row = factor + at / 8 % after_last;
    *reinterpret_cast<uint4*>(rows + (group * steps * 16 + row) * 128 + at % 8 * 16) = {};
  }
  const auto place_of = [&](int r, int i) {  // in float4s; those that there are not are the last
    const int quad = min(static_cast<int>(threadIdx.x) + r * kWide, n / 16 - 1);
    return (quad >> bits) * 4 * lanes + i * lanes + (quad & lanes - 1);
  };
  float4 before[kRuns][4];
  if constexpr (kind != Rows::finished) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        before[r][i] = four(transforms.of[0].before, place_of(r, i));
        if constexpr (kind == Rows::normed) before[r][i] = times(before[r][i], four(transforms.of[0].weight, place_of(r, i)));
      }
    }
  }
  __syncthreads();
  wait_for_previous();
  let_next_begin();
  if (threadIdx.x == 0) {
    for (int q = 0; q < min(slots, mine * each); ++q) fetch(q);
  }

  for (int local = 0; local < mine; ++local) {
    const int item = blockIdx.x + local * gridDim.x;
    const RowTransform& of = transforms.of[item / t];
    const int64_t b = item % t;
    float4 v[kRuns][4];
    float raw = 0, squares = 0;
    for (int which = 0; which < each; ++which) {
      const int q = local * each + which, slot = q % slots;
      const float* const input = inputs + slot * n;
      wait(full[slot], q / slots % 2);
#pragma unroll
      for (int r = 0; r < kRuns; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float4 x = four(input, place_of(r, i));
          if (kind == Rows::gated && which == 1) v[r][i] = times(v[r][i], gate(x));
          else v[r][i] = which == 0 ? x : sum(v[r][i], x);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const bool inside = threadIdx.x + r * kWide < n / 16;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (kind == Rows::normed && inside) raw = squared(v[r][i], raw);
        if constexpr (kind != Rows::finished) v[r][i] = times(v[r][i], before[r][i]);
        if (inside) squares = squared(v[r][i], squares);
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(~0u, squares, offset);
      if constexpr (kind == Rows::normed) raw += __shfl_xor_sync(~0u, raw, offset);
    }
    if (lane == 0) sums[local % 2][warp] = {squares, raw};
    along_lanes(v, lanes);
    __syncthreads();  // and all have read their inputs, and multiplied by the row before
    if (threadIdx.x == 0) {
      for (int q = local * each + slots; q < min((local + 1) * each + slots, mine * each); ++q) fetch(q);
    }
    squares = raw = 0;
#pragma unroll
    for (int i = 0; i < kGroups * 4; ++i) squares += sums[local % 2][i].x, raw += sums[local % 2][i].y;

    // ‖x‖ times √w becomes the largest number, and none of S is larger.
    const float size = sqrtf(squares), most = size * (1.001f / kMostHalf), inverse = size == 0 ? 0 : 1 / (most * sqrtf(static_cast<float>(w)));
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const int quad = threadIdx.x + r * kWide, run = quad >> bits;
      if (quad >= n / 16) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = (i * lanes + (quad & lanes - 1)) * 4;
        *reinterpret_cast<uint2*>(rows + (column / 64 * steps * 16 + run) * 128 + (column % 64 / 8 ^ run % 8) * 16 + column % 8 * 2) =
            make_uint2(half_pair(v[r][i].x * inverse, v[r][i].y * inverse), half_pair(v[r][i].z * inverse, v[r][i].w * inverse));
      }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (local == 0) wait(there, 0);

    const float of_norm = kind == Rows::normed ? 1.0f / sqrtf(raw / static_cast<float>(n) + of.eps) : 1;
    if (kind != Rows::finished && threadIdx.x == 0) to.units[b] = size == 0 ? of_norm : most * of_norm;
    const float scale = kind == Rows::finished ? most * sqrtf(static_cast<float>(w)) * of.norm * to.units[b] : 1.0f / sqrtf(static_cast<float>(factor));
    for (int unit = warp / 4; unit < tiles * groups; unit += kGroups) {
      const int tile = unit % tiles, group = unit / tiles;
      float d[32];
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll 1
      for (int k = 0; k < steps; ++k) {
        multiply(d, operand(start + (k / 4 * tiles + tile) * kTileBytes + k % 4 * 32), operand(rows_at + (group * steps + k) * 2048), k);
      }
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      multiplied<0>();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int run = tile * 64 + warp % 4 * 16 + lane / 4 + h * 8;
        if constexpr (kind == Rows::finished) {
          if (run < factor) write_finished(of, b, run * w + group * 64 + lane % 4 * 2, scale, d, h);
        } else {
          uint32_t pair[8];
#pragma unroll
          for (int j = 0; j < 8; ++j) pair[j] = half_pair(d[j * 4 + h * 2] * scale, d[j * 4 + h * 2 + 1] * scale);
          write_parts(to, b, n, run * groups + group, run < factor, pair);
        }
      }
    }
  }
}

}  // namespace ops::prompt
