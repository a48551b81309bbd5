// The definition, in fp32: every L <= 16, KV <= 8, V. One block a sequence; the group minima of all steps lie in device memory.
#include "trellis_cuda.cuh"

namespace ops::trellis {
namespace {

constexpr int threads = 512;

// Group minima g_t[k] = min_j g_{t-1}[s >> KV] + |table[s] - x_t|², s = j·G + k, over steps first, first + 1, … modulo N.
// start: the group before the first step, or -1. The history is [N][G].
__device__ void forward(const Launch& a, const float* x, int first, int start, float* history) {
  const int groups = 1 << (a.L - a.KV), candidates = 1 << a.KV;
  for (int t = 0; t < a.N; t++) {
    const int step = (first + t) % a.N;
    float target[4];
    for (int v = 0; v < a.V; v++) target[v] = x[step * a.V + v];
    for (int k = threadIdx.x; k < groups; k += threads) {
      float best = INFINITY;
      for (int j = 0; j < candidates; j++) {
        const int s = j * groups + k;
        float cost = t > 0 ? history[(int64_t)(t - 1) * groups + (s >> a.KV)] : start < 0 || s >> a.KV == start ? 0.f : INFINITY;
        for (int v = 0; v < a.V; v++) {
          const float d = a.table[(int64_t)s * a.V + v] - target[v];
          cost = fmaf(d, d, cost);
        }
        best = fminf(best, cost);
      }
      history[(int64_t)t * groups + k] = best;
    }
    __syncthreads();
  }
}

// By one warp: states of the steps N-1 down to `from`, from the last group (-1: the best). Returns the group before `from`.
__device__ int trace(const Launch& a, const float* x, int first, int start, int last, int from, const float* history, uint16_t* states) {
  const int groups = 1 << (a.L - a.KV), candidates = 1 << a.KV, lane = threadIdx.x & 31;
  int k = last;
  if (k < 0) {
    float best = INFINITY;
    unsigned where = lane;
    for (int i = lane; i < groups; i += 32) {
      const float cost = history[(int64_t)(a.N - 1) * groups + i];
      if (cost < best) best = cost, where = i;
    }
    k = warp_argmin(__float_as_uint(best), where);
  }
  for (int t = a.N - 1; t >= from; t--) {
    const int step = (first + t) % a.N;
    float best = INFINITY;
    unsigned where = 0;
    for (int j = lane; j < candidates; j += 32) {
      const int s = j * groups + k;
      float cost = t > 0 ? history[(int64_t)(t - 1) * groups + (s >> a.KV)] : start < 0 || s >> a.KV == start ? 0.f : INFINITY;
      for (int v = 0; v < a.V; v++) {
        const float d = a.table[(int64_t)s * a.V + v] - x[step * a.V + v];
        cost = fmaf(d, d, cost);
      }
      if (cost < best) best = cost, where = j;
    }
    if (best == INFINITY) where = ~0u;
    const int s = warp_argmin(__float_as_uint(best), where) * groups + k;
    if (states && lane == 0) states[step] = s;
    k = s >> a.KV;
  }
  return k;
}

__global__ void __launch_bounds__(threads) generic_kernel(const Launch a) {
  extern __shared__ float x[];  // [T]
  __shared__ int overlap;
  const int groups = 1 << (a.L - a.KV), half = a.N / 2;
  float* history = reinterpret_cast<float*>(a.workspace) + (int64_t)blockIdx.x * a.N * groups;
  for (int64_t r = blockIdx.x; r < a.sequences; r += gridDim.x) {
    for (int i = threadIdx.x; i < a.T; i += threads) x[i] = fminf(fmaxf(a.z[r * a.T + i], -a.limit), a.limit);
    __syncthreads();
    forward(a, x, a.N - half, -1, history);  // the sequence turned right by half of it
    if (threadIdx.x < 32) {
      const int k = trace(a, x, a.N - half, -1, -1, half, history, nullptr);
      if (threadIdx.x == 0) overlap = k;
    }
    __syncthreads();
    forward(a, x, 0, overlap, history);
    if (threadIdx.x < 32) trace(a, x, 0, overlap, overlap, 0, history, a.codes + r * a.N);
    __syncthreads();
    for (int i = threadIdx.x; i < a.T; i += threads) a.values[r * a.T + i] = a.table[a.codes[r * a.N + i / a.V] * a.V + i % a.V];
    __syncthreads();
  }
}

}  // namespace

const Family generic_family = {
    [](const Launch& a, int) { return a.T <= 8192; },
    [](const Launch&) { return size_t{0}; },
    [](const Launch& a) { return (size_t)a.N * sizeof(float) << (a.L - a.KV); },
    [](const Launch& a) { return 4 * a.multiprocessors; },
    [](const Launch& a) {
      generic_kernel<<<a.blocks, threads, a.T * sizeof(float), a.stream>>>(a);
      return cudaGetLastError();
    },
};

}  // namespace ops::trellis
