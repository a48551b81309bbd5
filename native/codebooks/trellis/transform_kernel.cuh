// defines: incoherent_kernel and coherent_kernel, randomized Hadamard transforms of a few rows, for what comes before and after a product.
//
// A row is [runs][w]: with M of order F > 1, F runs, out[r] = Σ_k mix[k, r]·x[k] and then S along each run; with F = 1 any number of runs.
// A block makes a slice: up to kSlice runs of F, or so many as are 4096 numbers.
#pragma once
#include "../../ops/hadamard/hadamard_matrix.h"
#include "../../ops/silu-mul/fast_silu.cuh"
#include "butterflies.cuh"
#include "product_operands.cuh"

namespace ops::product {

constexpr int kTransformThreads = 512, kSlice = 8, kMostRun = 32768, kMostSlices = 32;

struct Transform {
  const float *x, *before, *after;   // of a row; factors by coordinate, or null
  const float *weight, *gate, *bias, *add;  // what linear.h has before and after, or null; gate and add: rows of n
  const float* mix;                 // [F][F up to a multiple of kSlice], or null
  float* y;                         // f32 [t, n]
  int64_t stride;                   // from row to row of x
  int n, factor, w, runs, slices;   // runs: of a slice
  float norm, eps;
  static Transform of(int64_t n, int64_t block, int64_t factor) {
    Transform t{};
    t.n = static_cast<int>(n), t.factor = static_cast<int>(factor), t.w = static_cast<int>(block / factor);
    const int all = t.n / t.w;
    t.runs = factor > 1 ? kSlice : std::max({1, std::min(all, 4096 / t.w), (all + kMostSlices - 1) / kMostSlices});
    t.slices = (all + t.runs - 1) / t.runs;
    t.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
    return t;
  }
};

struct Transforms {
  Transform of[4];
  int count;
};

// A slice, and where terms of sums over k are spread over threads, those.
inline int transform_bytes(const Transform& t) {
  return (spot(t.runs * t.w) + 1 + (t.factor > 1 && t.w < kTransformThreads ? kTransformThreads * kSlice : 0)) * 4;
}

// What is transformed: x; x ⊙ before; and x ⊙ weight or silu(gate) ⊙ x in place of x. Known to the compiler, so that loads are on their way together.
enum class Input { plain, scaled, normed, gated };

// A slice of a row's transform into shared memory [runs·w], at `spot`s; gives this thread's share of Σu² over the row, u: the input, and
// of Σx² where it is normed.
template <Input kInput>
__device__ float transform(const Transform& t, int row, int slice, float* tile, float& raw) {
  constexpr int kAhead = 8;  // loads of a thread on their way
  const float* const x = t.x + row * t.stride;
  const float* const gate = kInput == Input::gated ? t.gate + static_cast<int64_t>(row) * t.n : nullptr;
  const int first = slice * t.runs, runs = min(t.runs, t.n / t.w - first), size = runs * t.w;
  raw = 0;
  const auto read = [&](int at) {
    float v = x[at];
    if constexpr (kInput == Input::normed) raw = fmaf(v, v, raw), v *= t.weight[at];
    if constexpr (kInput == Input::gated) v *= fast_silu(gate[at]);
    if constexpr (kInput != Input::plain) v *= t.before[at];
    return v;
  };
  float squares = 0;
  if (t.factor == 1) {
    for (int base = threadIdx.x; base < t.n; base += kAhead * kTransformThreads) {
      float v[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) v[i] = base + i * kTransformThreads < t.n ? read(base + i * kTransformThreads) : 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        squares = fmaf(v[i], v[i], squares);
        const int in = base + i * kTransformThreads - first * t.w;
        if (in >= 0 && in < size) tile[spot(in)] = v[i] * t.norm;
      }
    }
  } else {
    const int wide = min(t.w, kTransformThreads), terms = kTransformThreads / wide, across = (t.factor + kSlice - 1) / kSlice * kSlice;
    const int share = threadIdx.x / wide;
    for (int c = threadIdx.x % wide; c < t.w; c += wide) {
      float sums[kSlice] = {};
#pragma unroll 8
      for (int k = share; k < t.factor; k += terms) {
        const float4* const mix = reinterpret_cast<const float4*>(t.mix + k * across + first);
        const float4 low = __ldg(mix), high = __ldg(mix + 1);
        const float v = read(k * t.w + c);
        squares = fmaf(v, v, squares);
        sums[0] = fmaf(low.x, v, sums[0]), sums[1] = fmaf(low.y, v, sums[1]), sums[2] = fmaf(low.z, v, sums[2]), sums[3] = fmaf(low.w, v, sums[3]);
        sums[4] = fmaf(high.x, v, sums[4]), sums[5] = fmaf(high.y, v, sums[5]), sums[6] = fmaf(high.z, v, sums[6]), sums[7] = fmaf(high.w, v, sums[7]);
      }
      float* const to = terms > 1 ? tile + spot(t.runs * t.w) + 1 + share * kSlice * wide : tile;
#pragma unroll
      for (int r = 0; r < kSlice; ++r) {
        if (terms > 1) to[r * wide + c] = sums[r];
        else if (r < runs) tile[spot(r * t.w + c)] = sums[r] * t.norm;
      }
    }
    if (terms > 1) {
      __syncthreads();
      const float* const from = tile + spot(t.runs * t.w) + 1;
      for (int i = threadIdx.x; i < size; i += kTransformThreads) {
        float sum = 0;
        for (int s = 0; s < terms; ++s) sum += from[s * kSlice * wide + i];
        tile[spot(i)] = sum * t.norm;
      }
    }
  }
  along_runs<kTransformThreads>(tile, size, t.w);
  return squares;
}

__device__ inline float block_total(float v) {
  __shared__ float partial[kTransformThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  v = partial[threadIdx.x % (kTransformThreads / 32)];
  for (int offset = kTransformThreads / 64; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
  return v;
}

// (x ⊙ before)·H into parts and units of a product. Grid [slices, t].
template <class Code, Input kInput>
__global__ void __launch_bounds__(kTransformThreads) incoherent_kernel(const Transforms transforms, unsigned char* parts, float* units) {
  extern __shared__ float tile[];
  // In this order: the product reads weights and table before it waits, which whoever wrote them has then left behind.
  wait_for_previous();
  let_next_begin();
  const Transform& t = transforms.of[0];
  const int slice = blockIdx.x, b = blockIdx.y, stride = padded(t.n), first = slice * t.runs * t.w, size = min(t.runs * t.w, t.n - first);
  // H keeps the norm, and no number is larger than it. The same sum, in the same order, in every block.
  float raw;
  const float norm = sqrtf(block_total(transform<kInput>(t, b, slice, tile, raw)));
  const float unit = norm == 0 ? 1 : norm * (1.001f / most_digits<Code>), inverse = 1 / unit;
  // rmsnorm's factor is one of the whole row, so it can be left to the unit.
  const float factor = kInput == Input::normed ? 1.0f / sqrtf(block_total(raw) / static_cast<float>(t.n) + t.eps) : 1;
  unsigned char* const to = parts + static_cast<int64_t>(b) * Code::parts * stride * (Code::bytes ? 1 : 2);
  float sum = 0;
  const int end = slice == static_cast<int>(gridDim.x) - 1 ? stride - first : size;  // the last pads
  for (int i = threadIdx.x; i < end; i += kTransformThreads) {
    const int j = first + i, digits = split<Code::bytes>(i < size ? tile[spot(i)] * inverse : 0, to, j, stride);
    if constexpr (Code::bytes) sum += static_cast<float>(digits);
  }
  if constexpr (Code::bytes) sum = block_total(sum);
  float* const mine = units + static_cast<int64_t>(b) * (1 + gridDim.x);
  if (threadIdx.x == 0) mine[1 + slice] = sum;
  if (threadIdx.x == 0 && slice == 0) mine[0] = unit * factor;
}

// y = (x·H) ⊙ after of several. Grid [slices of all, t].
static __global__ void __launch_bounds__(kTransformThreads) coherent_kernel(const Transforms transforms) {
  extern __shared__ float tile[];
  wait_for_previous();
  let_next_begin();
  int slice = blockIdx.x, which = 0;
  while (which + 1 < transforms.count && slice >= transforms.of[which].slices) slice -= transforms.of[which++].slices;
  const Transform& t = transforms.of[which];
  const int first = slice * t.runs * t.w, size = min(t.runs * t.w, t.n - first);
  float raw;
  transform<Input::plain>(t, blockIdx.y, slice, tile, raw);
  const int64_t place = static_cast<int64_t>(blockIdx.y) * t.n + first;
  for (int i = threadIdx.x; i < size; i += kTransformThreads) {
    const float v = t.after ? tile[spot(i)] * t.after[first + i] : tile[spot(i)];
    const float biased = t.bias ? v + t.bias[first + i] : v;
    t.y[place + i] = t.add ? biased + t.add[place + i] : biased;
  }
}

}  // namespace ops::product
