#include "hadamard.h"

#include <string>

#include "../../core/cuda.cuh"
#include "hadamard_matrix.h"

namespace ops {

namespace {

// A transform is two to four passes over memory, each along one factor of the block: a pass sees x as [outer, order, inner].
constexpr int kRun = 8192;     // elements of a row that one block transforms in shared memory: 32 KB
constexpr int kOrder = 512;    // the longest factor of a pass across rows: 512 × 32 columns are 64 KB
constexpr int kColumns = 32;
constexpr int kMixed = 8;      // outputs that a thread sums

// What the first pass multiplies by on reading, the last on writing.
struct Scaling {
  const float *before, *after;  // of the transformed coordinate; or null
  float norm;
  int64_t n;  // columns of x
  bool left;
  __device__ int64_t coordinate(int64_t at) const { return left ? at / n : at % n; }
  __device__ float read(float x, int64_t at) const { return before ? x * (before[coordinate(at)] * norm) : x * norm; }
  __device__ float write(float x, int64_t at) const { return after ? x * after[coordinate(at)] : x; }
};

// Stages of stride from, 2·from, … < to over shared memory [size], two at a time: (a, b) → (a + b, a − b).
__device__ void butterflies(float* x, int size, int from, int to) {
  for (int h = from; h < to;) {
    __syncthreads();
    if (4 * h <= to) {
      for (int i = threadIdx.x; i < size / 4; i += blockDim.x) {
        float* const at = x + i / h * 4 * h + i % h;
        const float a = at[0] + at[h], b = at[0] - at[h], c = at[2 * h] + at[3 * h], d = at[2 * h] - at[3 * h];
        at[0] = a + c, at[h] = b + d, at[2 * h] = a - c, at[3 * h] = b - d;
      }
      h *= 4;
    } else {
      for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
        float* const at = x + i / h * 2 * h + i % h;
        const float a = at[0], b = at[h];
        at[0] = a + b, at[h] = a - b;
      }
      h *= 2;
    }
  }
  __syncthreads();
}

// Every `order` consecutive elements, a power of two; a block takes `size` of them.
__global__ void __launch_bounds__(kThreads) run_kernel(const float* x, float* out, int64_t total, int size, int order, Scaling scaling) {
  extern __shared__ float shared[];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * size;
  for (int i = threadIdx.x; i < size; i += kThreads) shared[i] = first + i < total ? scaling.read(x[first + i], first + i) : 0;
  butterflies(shared, size, 1, order);
  for (int i = threadIdx.x; i < size; i += kThreads) {
    if (first + i < total) out[first + i] = scaling.write(shared[i], first + i);
  }
}

// Where element a of column q lies, q over outer · inner.
__device__ int64_t place(int64_t q, int64_t a, int64_t order, int64_t inner) { return (q / inner * order + a) * inner + q % inner; }

// Along a factor with inner > 1 that is a power of two: kColumns columns a block.
__global__ void __launch_bounds__(kThreads) stride_kernel(const float* x, float* out, int64_t columns, int order, int64_t inner, Scaling scaling) {
  extern __shared__ float shared[];
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  for (int i = threadIdx.x; i < order * kColumns; i += kThreads) {
    const int64_t at = place(q, i / kColumns, order, inner);
    shared[i] = q < columns ? scaling.read(x[at], at) : 0;
  }
  butterflies(shared, order * kColumns, kColumns, order * kColumns);
  for (int i = threadIdx.x; i < order * kColumns; i += kThreads) {
    const int64_t at = place(q, i / kColumns, order, inner);
    if (q < columns) out[at] = scaling.write(shared[i], at);
  }
}

// Along the factor M: out[r] = Σ_k mix[k, r]·x[k], mix [order, padded].
__global__ void __launch_bounds__(kThreads)
    mix_kernel(const float* x, float* out, const float* mix, int64_t columns, int order, int padded, int64_t inner, Scaling scaling) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x % kColumns, warp = threadIdx.x / kColumns;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kColumns + lane;
  for (int k = warp; k < order; k += kThreads / kColumns) {
    const int64_t at = place(q, k, order, inner);
    shared[k * kColumns + lane] = q < columns ? scaling.read(x[at], at) : 0;
  }
  __syncthreads();
  if (q >= columns) return;
  for (int r = warp * kMixed; r < order; r += kThreads / kColumns * kMixed) {
    float sums[kMixed] = {};
    for (int k = 0; k < order; ++k) {
      const float value = shared[k * kColumns + lane];
      const float4* signs = reinterpret_cast<const float4*>(mix + k * padded + r);
      const float4 low = signs[0], high = signs[1];
      sums[0] = fmaf(low.x, value, sums[0]), sums[1] = fmaf(low.y, value, sums[1]);
      sums[2] = fmaf(low.z, value, sums[2]), sums[3] = fmaf(low.w, value, sums[3]);
      sums[4] = fmaf(high.x, value, sums[4]), sums[5] = fmaf(high.y, value, sums[5]);
      sums[6] = fmaf(high.z, value, sums[6]), sums[7] = fmaf(high.w, value, sums[7]);
    }
#pragma unroll
    for (int i = 0; i < kMixed; ++i) {
      if (r + i >= order) break;
      const int64_t at = place(q, r + i, order, inner);
      out[at] = scaling.write(sums[i], at);
    }
  }
}

// M (inverse) or Mᵀ as mix_kernel reads it.
const float* mixer(int order, int padded, bool inverse) {
  return constant("hadamard " + std::to_string(order) + (inverse ? " inverse" : ""), [&] {
    const std::vector<float> matrix = hadamard_matrix(order);
    std::vector<float> mix(order * padded);
    for (int k = 0; k < order; ++k) {
      for (int r = 0; r < order; ++r) mix[k * padded + r] = inverse ? matrix[r * order + k] : matrix[k * order + r];
    }
    return mix;
  });
}

}  // namespace

void hadamard(const HadamardArgs& args) {
  const int64_t total = args.m * args.n, width = args.block / args.factor;
  if (total == 0) return;
  // Factors of two, innermost first. Along a row the innermost is a run of it.
  std::vector<int64_t> orders;
  int64_t rest = width;
  if (!args.left) orders.push_back(std::min<int64_t>(rest, kRun)), rest /= orders.back();
  while (rest > 1) {
    int64_t order = rest;
    while (order > kOrder) order = rest > kOrder * 64 ? kOrder : int64_t{1} << (63 - __builtin_clzll(rest)) / 2;
    orders.push_back(order), rest /= order;
  }
  const bool mixes = args.factor > 1;
  if (orders.empty() && !mixes) orders.push_back(1);
  Scaling scaling{args.inverse ? nullptr : args.signs, nullptr, static_cast<float>(1 / std::sqrt(static_cast<double>(args.block))), args.n,
                  args.left};
  const float* from = args.x;
  int64_t inner = args.left ? args.n : 1;
  const auto pass = [&](bool last, const auto& launch) {
    if (last && args.inverse) scaling.after = args.signs;
    launch();
    launched();
    from = args.out;
    scaling.before = nullptr, scaling.norm = 1;
  };
  for (size_t i = 0; i < orders.size(); ++i) {
    const int64_t order = orders[i], columns = total / order;
    pass(i + 1 == orders.size() && !mixes, [&] {
      if (inner == 1) {
        const int size = static_cast<int>(std::max<int64_t>(order, std::min<int64_t>(2048, total)) / order * order);
        run_kernel<<<(total + size - 1) / size, kThreads, size * sizeof(float), stream()>>>(from, args.out, total, size, order, scaling);
      } else {
        const size_t bytes = order * kColumns * sizeof(float);
        allow_shared(stride_kernel, bytes);
        stride_kernel<<<(columns + kColumns - 1) / kColumns, kThreads, bytes, stream()>>>(from, args.out, columns, order, inner, scaling);
      }
    });
    inner *= order;
  }
  if (!mixes) return;
  const int order = static_cast<int>(args.factor), padded = (order + kMixed - 1) / kMixed * kMixed;
  const float* const mix = mixer(order, padded, args.inverse);
  const int64_t columns = total / order;
  pass(true, [&] {
    mix_kernel<<<(columns + kColumns - 1) / kColumns, kThreads, order * kColumns * sizeof(float), stream()>>>(from, args.out, mix, columns, order,
                                                                                                          padded, inner, scaling);
  });
}

}  // namespace ops
