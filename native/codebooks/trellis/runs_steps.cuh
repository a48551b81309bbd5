// defines: the steps of runs_kernel.cuh: Y across runs by tensor cores, S along a run, and the last, numbers into digits.
#pragma once
#include "../../core/cluster.cuh"
#include "../../core/tensor_core.cuh"
#include "../../ops/silu-mul/fast_silu.cuh"
#include "product_operands.cuh"
#include "runs.cuh"

namespace ops::product {

// What a chain ends with: finished outputs; v; or, where a block or cluster has all of the row, digits.
enum class End { finished, along, digits };

__device__ inline float4 four(const float* from) { return *reinterpret_cast<const float4*>(from); }

// ── Y across runs ─────────────────────────────────────────────────────────────────────────────────────────────────────

template <int V> struct Several { float of[V]; };

// Loads that stay where they are written: the compiler put those of the second step behind the products of the first.
template <int V, bool global>
__device__ inline Several<V> columns(const float* from) {
  Several<V> to;
  if constexpr (V == 4) {
    if constexpr (global) {
      asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(to.of[0]), "=f"(to.of[1]), "=f"(to.of[2]), "=f"(to.of[3]) : "l"(from));
    } else {
      const float4 v = *reinterpret_cast<const float4*>(from);
      to.of[0] = v.x, to.of[1] = v.y, to.of[2] = v.z, to.of[3] = v.w;
    }
  } else if constexpr (V == 2) {
    if constexpr (global) {
      asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(to.of[0]), "=f"(to.of[1]) : "l"(from));
    } else {
      const float2 v = *reinterpret_cast<const float2*>(from);
      to.of[0] = v.x, to.of[1] = v.y;
    }
  } else {
    if constexpr (global) asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(to.of[0]) : "l"(from));
    else to.of[0] = *from;
  }
  return to;
}

// Two numbers as the sum of three pairs of bf16, which have all of their 24 bits.
__device__ inline void thirds(float a, float b, uint32_t (&to)[3]) {
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(to[i]) : "f"(b), "f"(a));
    a -= __uint_as_float(to[i] << 16), b -= __uint_as_float(to[i] & 0xffff0000u);
  }
}

// What a warp does of it: rows of a tile, at most two steps of 16 runs each, and 8·V columns. Lane 4g + c has columns V·g … of runs 2c, 2c + 1,
// 2c + 8, 2c + 9, so that loads are wide; matrix v of V gets its column v.
template <int V>
struct Mix {
  float d[V][4];
  template <bool global>
  __device__ void operator()(const uint4 (&y)[2], const float* from, int run_to_run, int step, int runs) {
    const int lane = threadIdx.x % 32, first = step * 16 + lane % 4 * 2;
    const bool two = (step + 1) * 16 < runs;
    Several<V> in[2][4] = {};
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      if (s == 1 && !two) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int run = first + s * 16 + i % 2 + i / 2 * 8;
        in[s][i] = columns<V, global>(from + min(run, runs - 1) * run_to_run);  // Y has zeros for runs that are none
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) d[v][0] = d[v][1] = d[v][2] = d[v][3] = 0;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      if (s == 1 && !two) break;
      const uint32_t a[4] = {y[s].x, y[s].y, y[s].z, y[s].w};
#pragma unroll
      for (int v = 0; v < V; ++v) {
        uint32_t low[3], high[3];
        thirds(in[s][0].of[v], in[s][1].of[v], low), thirds(in[s][2].of[v], in[s][3].of[v], high);
#pragma unroll
        for (int part = 2; part >= 0; --part) ops::multiply(d[v], a, low[part], high[part]);
      }
    }
  }
  // Row lane/4 + 8·half of the tile has columns 2V·c … 2V·c + 2V − 1 of this lane.
  __device__ float at(int half, int i) const { return d[i % V][half * 2 + i / V]; }
};

// ── S along runs ──────────────────────────────────────────────────────────────────────────────────────────────────────

// Of N rows of runs; a thread has four neighbours of a run of W, at 4·quad. exchange: shared, this thread's run in the first row; the rows are
// `row` apart. Ends with what every thread has; where W > 128 all threads of the block meet, after which exchange holds what was half done.
template <int W, int N>
__device__ void along(float (&v)[N][4], float* exchange, int row, int quad, bool active) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float a = v[n][0] + v[n][1], b = v[n][0] - v[n][1], c = v[n][2] + v[n][3], d = v[n][2] - v[n][3];
    v[n][0] = a + c, v[n][1] = b + d, v[n][2] = a - c, v[n][3] = b - d;
  }
#pragma unroll
  for (int mask = 1; mask < (W / 4 < 32 ? W / 4 : 32); mask *= 2) {
    const float sign = quad & mask ? -1.0f : 1.0f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[n][i] = fmaf(sign, v[n][i], __shfl_xor_sync(~0u, v[n][i], mask));
    }
  }
  if constexpr (W > 128) {
    if (active) {
#pragma unroll
      for (int n = 0; n < N; ++n) *reinterpret_cast<float4*>(exchange + n * row + 4 * quad) = make_float4(v[n][0], v[n][1], v[n][2], v[n][3]);
    }
    __syncthreads();
    if (!active) return;
    const int part = quad / 32, lane = quad % 32;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      v[n][0] = v[n][1] = v[n][2] = v[n][3] = 0;
#pragma unroll
      for (int other = 0; other < W / 128; ++other) {
        const float4 o = *reinterpret_cast<const float4*>(exchange + n * row + other * 128 + 4 * lane);
        const float sign = __popc(part & other) & 1 ? -1.0f : 1.0f;
        v[n][0] = fmaf(sign, o.x, v[n][0]), v[n][1] = fmaf(sign, o.y, v[n][1]), v[n][2] = fmaf(sign, o.z, v[n][2]), v[n][3] = fmaf(sign, o.w, v[n][3]);
      }
    }
  }
}

// ── digits ────────────────────────────────────────────────────────────────────────────────────────────────────────────

// Four neighbours, the first at j; gives what their digits sum to (bytes).
__device__ inline float write_digits(const Digits& to, unsigned char* parts, int stride, int j, const float (&v)[4]) {
  if (to.bytes) {
    // 0x8080 carries into the higher digits what makes the lower two signed, as split<true> does one number at a time.
    uint32_t q[4];
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int whole = __float2int_rn(v[i]);
      sum += whole, q[i] = static_cast<uint32_t>(whole) + 0x8080;
    }
    const uint32_t first = __byte_perm(q[0], q[1], 0x5140), second = __byte_perm(q[2], q[3], 0x5140);  // low, low, middle, middle
    const uint32_t words[3] = {__byte_perm(__byte_perm(q[0], q[1], 0x62), __byte_perm(q[2], q[3], 0x62), 0x5410),
                               __byte_perm(first, second, 0x7632) ^ 0x80808080, __byte_perm(first, second, 0x5410) ^ 0x80808080};
#pragma unroll
    for (int part = 0; part < 3; ++part) *reinterpret_cast<uint32_t*>(parts + part * stride + j) = words[part];
    return static_cast<float>(sum);
  }
  uint2 high, low;
  const auto split_two = [](float a, float b, uint32_t& high, uint32_t& low) {
    const __half2 first = __floats2half2_rn(a, b);
    const float2 left = __half22float2(first);
    const __half2 second = __floats2half2_rn(a - left.x, b - left.y);
    high = *reinterpret_cast<const uint32_t*>(&first), low = *reinterpret_cast<const uint32_t*>(&second);
  };
  split_two(v[0], v[1], high.x, low.x), split_two(v[2], v[3], high.y, low.y);
  __half* const at = reinterpret_cast<__half*>(parts) + j;
  *reinterpret_cast<uint2*>(at) = high, *reinterpret_cast<uint2*>(at + stride) = low;
  return 0;
}

// u = x ⊙ su ⊙ weight of four numbers, x the first of v, gated by the second where there are two. Gives Σu² and, of one that is not gated, Σx².
template <int N>
__device__ inline float2 scaled(const float (&v)[N][4], const float4& su, const float4& weight, bool active, float (&u)[1][4]) {
  const float factors[4] = {su.x * weight.x, su.y * weight.y, su.z * weight.z, su.w * weight.w};
  float2 sums{};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float x = v[0][i];
    if (N == 1 && active) sums.y = fmaf(x, x, sums.y);
    if constexpr (N == 2) x *= fast_silu(v[1][i]);
    u[0][i] = x * factors[i];
    if (active) sums.x = fmaf(u[0][i], u[0][i], sums.x);
  }
  return sums;
}

// Four of the numbers of a head, which is head/4 neighbouring lanes: ⊙ weight/√(mean of its squares + eps).
__device__ inline void norm_heads(float (&v)[4], float4 weight, int head, float eps) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) squares = fmaf(v[i], v[i], squares);
  for (int lanes = head / 8; lanes > 0; lanes /= 2) squares += __shfl_xor_sync(~0u, squares, lanes);
  const float factor = rsqrtf(__fdividef(squares, static_cast<float>(head)) + eps);
  v[0] *= factor * weight.x, v[1] *= factor * weight.y, v[2] *= factor * weight.z, v[3] *= factor * weight.w;
}

// Σ of two numbers over a warp, in one order always.
__device__ inline float2 warp_sums(float2 v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v.x += __shfl_xor_sync(~0u, v.x, offset), v.y += __shfl_xor_sync(~0u, v.y, offset);
  return v;
}

// From Σu² and Σx²: what a unit of the last digit is worth, times rmsnorm's factor, which is one of the whole row; and 1/unit · norm of H.
// H keeps ‖u‖, and no number is larger than it. All blocks wait for these, so they have no division that is exact, nor a root.
__device__ inline float unit_worth(const Digits& to, float2 sums, int n) {
  const float unit = sums.x > 0 ? sums.x * rsqrtf(sums.x) * __fdividef(1.001f, to.most) : 0;
  return to.normed ? unit * rsqrtf(__fdividef(sums.y, static_cast<float>(n)) + to.eps) : unit;
}
__device__ inline float inverse_unit(const Digits& to, float2 sums) { return sums.x > 0 ? rsqrtf(sums.x) * (to.norm * to.most * (1 / 1.001f)) : 0; }

// Y of the next transform, of tiles of 16 runs × groups·8V columns of `from`, then digits. All threads of a block; gives this one's share of
// their sum. partial: shared, [splits][tiles·16][columns + 4] where a lane's columns are no four or warps have to share the runs.
template <int V, bool global>
__device__ float into_digits(const Digits& to, const uint4 (&y)[2], const float* from, int run_to_run, float* partial, Cut cut, int first_tile, int tiles,
                             int groups, int first_column, unsigned char* parts, const auto& inverse) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, splits = cut.splits(), width = groups * 8 * V, n = cut.w * cut.runs;
  const int group = warp % groups, split = warp / groups % splits, tile = warp / (groups * splits);
  const bool direct = V > 1 && splits == 1;
  float sum = 0;
  Mix<V> mix;
  if (tile < tiles) mix.template operator()<global>(y, from + group * 8 * V + lane / 4 * V, run_to_run, split * 2, cut.runs);
  const float scale = inverse();
  if (tile < tiles) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile * 16 + lane / 4 + half * 8, column = group * 8 * V + lane % 4 * 2 * V, run = first_tile * 16 + row;
      if (direct) {
        if constexpr (V > 1) {
#pragma unroll
          for (int i = 0; i < 2 * V; i += 4) {
            const float v[4] = {mix.at(half, i) * scale, mix.at(half, i + 1) * scale, mix.at(half, i + 2) * scale, mix.at(half, i + 3) * scale};
            if (run < cut.runs) sum += write_digits(to, parts, n, run * cut.w + first_column + column + i, v);
          }
        }
      } else {
        float* const at = partial + (split * tiles * 16 + row) * (width + 4) + column;
#pragma unroll
        for (int i = 0; i < 2 * V; ++i) at[i] = mix.at(half, i);
      }
    }
  }
  if (direct) return sum;
  __syncthreads();
  for (int i = threadIdx.x; i < tiles * 16 * (width / 4); i += blockDim.x) {
    const int row = i / (width / 4), column = i % (width / 4) * 4, run = first_tile * 16 + row;
    if (run >= cut.runs) break;
    float v[4] = {};
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float4 p = *reinterpret_cast<const float4*>(partial + (s * tiles * 16 + row) * (width + 4) + column);
      v[0] += p.x, v[1] += p.y, v[2] += p.z, v[3] += p.w;
    }
    for (float& each : v) each *= scale;
    sum += write_digits(to, parts, n, run * cut.w + first_column + column, v);
  }
  return sum;
}

// Leaves the sum of a block's digits where the product looks for it.
__device__ inline void leave_sum(const Digits& to, float* units, int slot, float sum, float* scratch) {
  if (!to.bytes) return;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp) sum += scratch[warp];
  units[1 + slot] = sum;
}

}  // namespace ops::product
