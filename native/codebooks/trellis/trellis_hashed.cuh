// What the hashed search and its traceback share: sizes, where group minima lie, and the error of a state.
#pragma once
#include "trellis_cuda.cuh"

namespace ops::trellis {
namespace {

constexpr int threads = 256, bins = 1024, period = 4, columns = 8;  // columns: KV > 4: values of c that a warp has

template <int KV> struct Shape {
  static constexpr int groups = 1 << (16 - KV);
  static constexpr int reach = (16 - 1) / KV;  // ceil((16 - KV)/KV)
  static constexpr int error_limit = 65534 / (period + reach);
  // Errors count up to this share of limit²; less leaves smaller quanta. Beyond lie only states no good path takes.
  static constexpr float range = KV == 4 ? 0.35f : KV == 6 ? 0.28f : 0.22f;
  static constexpr int words = groups / threads;  // group minima that a thread ends a step with
};

// Where a group's minimum lies in shared memory: reads by 32 neighbouring A and writes by 32 neighbouring k >> 6 both meet 32 banks.
template <int KV> __device__ int place(int k) {
  if constexpr (KV == 4) return (k & 3) * 1024 + ((k >> 2) ^ (k >> 7 & 15));
  if constexpr (KV == 6) return k ^ (k >> 6 & 15) << 1;
  return k ^ (k >> 6) << 3;
}

// Where the history of one step holds a group: by the thread that made it, and which of its words.
template <int KV> __device__ int kept(int k) {
  const int a = k >> 6, c = k & 63;
  if constexpr (KV == 4) return ((c >> 2 & 3) * threads + (c >> 4) * 64 + a) * 4 + (c & 3);
  if constexpr (KV == 6) return ((c >> 3) * 32 + (c & 1) * 16 + a) * 4 + (c >> 1 & 3);
  return k;
}

// The same after a backward step.
__device__ int kept_back(int k) {
  const int j = k >> 8, tid = (k & 3) * 64 + (k >> 2 & 63);
  return ((j >> 2) * threads + tid) * 4 + (j & 3);
}

// Squared error in quanta, in the low bits of a float of 2^23; value and target are scaled to quanta already.
__device__ unsigned error_of(float2 c, float x0, float x1, float error_limit) {
  const float d0 = __fadd_rn(c.x, -x0), d1 = __fadd_rn(c.y, -x1);
  return __float_as_uint(__fadd_rn(fminf(__fmaf_rn(d0, d0, __fmul_rn(d1, d1)), error_limit), 8388608.f));
}

// What a traceback reads besides the history: scaled targets of both sequences, and the scaled distinct values.
struct Aims {
  const float4* x;       // [N] sequence 0's two, sequence 1's two
  const float2* values;  // [bins]
  int N;
};

template <int KV> __device__ unsigned state_error(const Aims& aims, int which, int step, unsigned s) {
  const float4 both = aims.x[step];
  return error_of(aims.values[s * (s + 1) >> 6 & 1023], which ? both.z : both.x, which ? both.w : both.y, Shape<KV>::error_limit) & 0xFFFF;
}

// KV = 4, a sequence, by one warp: the states of a pass ahead's steps count-1 … 0, from the group after them. start: the group before.
__device__ void trace(const Aims& aims, int which, int k, int first, int count, int start, const unsigned* history, uint16_t* states) {
  const int lane = threadIdx.x & 31;
  for (int t = count - 1; t >= 0; t--) {
    int s = start << 4 | (k & 15);
    if (t > 0) {
      unsigned best = ~0u;
      if (lane < 16) {
        const unsigned c = lane << 12 | k, before = history[(int64_t)(t - 1) * Shape<4>::groups + kept<4>(c >> 4)];
        best = state_error<4>(aims, which, first + t, c) + (before >> 16 * which & 0xFFFF) << 8 | lane;
      }
      s = (__reduce_min_sync(~0u, best) & 15) << 12 | k;
    }
    if (lane == 0) states[first + t] = s;
    k = s >> 4;
  }
}

// The same for a pass back that began at step `first` after the group `end`: from the group before its last step.
__device__ void trace_back(const Aims& aims, int which, int k, int first, int count, int end, const unsigned* history, uint16_t* states) {
  const int lane = threadIdx.x & 31;
  for (int t = count - 1; t >= 0; t--) {
    int s = k << 4 | (end & 15);
    if (t > 0) {
      unsigned best = ~0u;
      if (lane < 16) {
        const unsigned c = k << 4 | lane, after = history[(int64_t)(t - 1) * Shape<4>::groups + kept_back(c & 4095)];
        best = state_error<4>(aims, which, first - t, c) + (after >> 16 * which & 0xFFFF) << 8 | lane;
      }
      s = k << 4 | (__reduce_min_sync(~0u, best) & 15);
    }
    if (lane == 0) states[first - t] = s;
    k = s & 4095;
  }
}

// KV = 6, 8, by the whole block: states of a pass ahead's steps count-1 … until, warp w < 2 sequence w's from the group k after
// them. Returns the group before them. start: the group before the first step, or -1. Every step waits for the one
// after it, so rows of the history come through `ring` (shared, `ring_rows` of them), some steps before they are read.
// mirrored: the rows hold those groups alone whose bit 2 is clear.
constexpr int ring_rows = 6;
template <int KV, bool mirrored>
__device__ int trace(const Aims& aims, unsigned* ring, int k, int first, int count, int start, int until, const unsigned* history, uint16_t* states) {
  constexpr int groups = Shape<KV>::groups, ahead = ring_rows - 1;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, least_row = max(until - 1, 0);
  const auto fetch = [&](int n) {  // the row that the n-th step reads
    const int row = count - 2 - n;
    if (row >= least_row && tid < groups / 4) {
      const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(ring + n % ring_rows * groups + 4 * tid));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(history + (int64_t)row * groups + 4 * tid) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  __syncthreads();
  for (int n = 0; n < ahead; n++) fetch(n);
  for (int n = 0; n < count - until; n++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(ahead - 1) : "memory");
    __syncthreads();  // the row is whole, and the one before it is read
    fetch(n + ahead);
    if (warp >= 2) continue;
    const int t = count - 1 - n, step = first + t < aims.N ? first + t : first + t - aims.N;
    int s = start << KV | (k & ((1 << KV) - 1));
    if (t > 0 || start < 0) {
      unsigned best = ~0u;
#pragma unroll
      for (int i = 0; i < (1 << KV) / 32; i++) {
        const unsigned j = 32 * i + lane, c = j << (16 - KV) | k;
        unsigned cost = state_error<KV>(aims, warp, step, c);
        if (t > 0) {
          const unsigned group = c >> KV, where = mirrored && group & 4 ? groups - 1 - group : group;
          cost += ring[n % ring_rows * groups + kept<KV>(where)] >> 16 * warp & 0xFFFF;
        }
        best = min(best, cost << 8 | j);
      }
      s = (__reduce_min_sync(~0u, best) & 255) << (16 - KV) | k;
    }
    if (states && lane == 0) states[warp * aims.N + step] = s;
    k = s >> KV;
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  return k;
}

}  // namespace
}  // namespace ops::trellis
