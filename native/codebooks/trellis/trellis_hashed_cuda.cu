// HYB's search: L = 16, V = 2, values that depend on W(s) = (s(s+1) >> 6) mod 1024 alone.
//
//   g_t[k] = min_j g_{t-1}[s >> KV] + D_t[W(s)],   s = j·2^(16-KV) + k
//
// A block of 256 threads searches a pair of sequences; every cost is a 32-bit word of two u16, one a sequence, so that a
// state costs one shared-memory load and one VIADDMNMX (min(g + D, best), both halves at once). D_t holds the 1024
// distinct errors of the step, quantized.
//
// No bank conflicts: with s = 64·A + c, W = 64·A² + A(2c+1) + (c(c+1) >> 6) mod 1024. The lanes of a warp take 32
// neighbouring A for one c; 2c+1 is odd, so that their W differ mod 32. No address arithmetic: with A = 32·i + lane,
// W = W(i=0) + 32·i·(2c+1) mod 1024, whose second term is known when compiling (c mod 8 or 16 is unrolled); D is there
// twice in a row, so that the sum needs no modulus.
//
// Costs cannot overflow, nothing saturates: any group follows from any other within `reach` steps, so that all group
// minima lie within reach·error_limit of the least, which is taken off every `period` steps.
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

template <int KV> struct alignas(16) Shared {
  unsigned errors[2][2 * bins];
  unsigned costs[2][Shape<KV>::groups];
  unsigned least[2][2];  // of this period's last step, and of the last period's
  unsigned best[2];
  int group[2], overlap[2];
};

template <int KV> class Search {
  using S = Shape<KV>;
  Shared<KV>& shared;
  const float4* x;  // [N] scaled targets: sequence 0's two, sequence 1's two
  const float2* values;  // [bins] scaled
  unsigned* history;     // [N][groups]
  const int N, tid, lane, warp;
  float2 own[bins / threads];  // values tid, tid + 256, …

  // The i-th of this thread's errors of a step.
  __device__ void fill_errors(unsigned* errors, float4 target, int i) {
    const unsigned low = error_of(own[i], target.x, target.y, S::error_limit), high = error_of(own[i], target.z, target.w, S::error_limit);
    const unsigned both = __byte_perm(low, high, 0x5410);
    errors[tid + i * threads] = both;
    errors[tid + i * threads + bins] = both;
  }

  static __device__ const unsigned* row(const unsigned* errors, unsigned bytes) {
    return reinterpret_cast<const unsigned*>(reinterpret_cast<const unsigned char*>(errors) + bytes);
  }

  // One step; out: this thread's groups, in the order of `kept`; group: which, for KV = 8.
  // The next step's errors are made in between, so that arithmetic and shared memory work at the same time.
  __device__ void step(const unsigned* errors, unsigned* next_errors, float4 next, const unsigned* from, unsigned* to, unsigned base,
                       unsigned (&out)[S::words], int& group) {
    if constexpr (KV == 4) {
      const int q = warp >> 1, half = warp & 1, a = 32 * half + lane;
      unsigned g[16];
#pragma unroll
      for (int j = 0; j < 16; j++) g[j] = from[q * 1024 + 64 * j + 32 * half + (lane ^ half ^ (2 * j & 15))] - base;
#pragma unroll
      for (int r = 0; r < 16; r++) {
        const unsigned k = 64 * a + 16 * q + r;
        const unsigned* d = row(errors, k * (k + 1) >> 4 & 0xFFC);
        unsigned even = g[0] + d[0], odd = g[1] + d[64 * (2 * r + 1) & 1023];
#pragma unroll
        for (int j = 2; j < 16; j += 2) {
          even = __viaddmin_u16x2(g[j], d[64 * j * (2 * r + 1) & 1023], even);
          odd = __viaddmin_u16x2(g[j + 1], d[64 * (j + 1) * (2 * r + 1) & 1023], odd);
        }
        out[r] = __vminu2(even, odd);
        to[(r & 3) * 1024 + 16 * a + (4 * q ^ (a >> 1 & 15) ^ r >> 2)] = out[r];
        if (r % 4 == 1) fill_errors(next_errors, next, r / 4);
      }
    } else {
      // A warp has 8 c and all j; lanes that share a group (2 for KV = 6, 8 for KV = 8) have different j.
      unsigned g[32], best[columns];
      if constexpr (KV == 8) {
#pragma unroll
        for (int i = 0; i < bins / threads; i++) fill_errors(next_errors, next, i);
      }
#pragma unroll
      for (int i = 0; i < 32; i++) {
        if constexpr (KV == 6) g[i] = from[32 * i + (lane ^ (i >> 1) << 1)] - base;
        else g[i] = from[8 * (i ^ i >> 3) + (lane >> 2)] - base;
      }
#pragma unroll
      for (int y = 0; y < columns; y++) {
        const unsigned s = 64 * lane + columns * warp + y, w = s * (s + 1) >> 4 & 0xFFC;
        const unsigned* d = row(errors, w);
        const unsigned* e = row(errors, w + 2048 * (warp & 1) & 0xFFC);  // 32·i·(2c+1) for odd i and odd c >> 3: 512 more
        unsigned even = g[0] + d[0], odd = g[1] + e[32 * (2 * y + 1) & 1023];
#pragma unroll
        for (int i = 2; i < 32; i += 2) {
          even = __viaddmin_u16x2(g[i], d[32 * i * (2 * y + 1) & 1023], even);
          odd = __viaddmin_u16x2(g[i + 1], e[32 * (i + 1) * (2 * y + 1) & 1023], odd);
        }
        best[y] = __vminu2(even, odd);
        if (KV == 6 && y % 2 == 0) fill_errors(next_errors, next, y / 2);
      }
      // Lanes 16 apart exchange: each keeps every other c. KV = 8: then lanes 8 apart, and 4 apart, while there are c left.
      const bool bit4 = lane & 16;
      unsigned half[columns / 2];
#pragma unroll
      for (int z = 0; z < columns / 2; z++)
        half[z] = __vminu2(bit4 ? best[2 * z + 1] : best[2 * z], __shfl_xor_sync(~0u, bit4 ? best[2 * z] : best[2 * z + 1], 16));
      if constexpr (KV == 6) {
#pragma unroll
        for (int z = 0; z < columns / 2; z++) {
          out[z] = half[z];
          to[place<6>(64 * (lane & 15) + columns * warp + 2 * z + bit4)] = half[z];
        }
      } else {
        const bool bit3 = lane & 8, bit2 = lane & 4;
        unsigned quarter[2];
#pragma unroll
        for (int z = 0; z < 2; z++)
          quarter[z] = __vminu2(bit3 ? half[2 * z + 1] : half[2 * z], __shfl_xor_sync(~0u, bit3 ? half[2 * z] : half[2 * z + 1], 8));
        group = 64 * (lane & 3) + columns * warp + 4 * bit2 + 2 * bit3 + bit4;
        out[0] = __vminu2(bit2 ? quarter[1] : quarter[0], __shfl_xor_sync(~0u, bit2 ? quarter[0] : quarter[1], 4));
        to[place<8>(group)] = out[0];
      }
    }
  }

  // Backward, KV = 4: to[k] = min_r from[s mod 4096] + D[W(s)], s = 16·k + r; out: this thread's groups, in the order of `kept_back`.
  __device__ void step_back(const unsigned* errors, unsigned* next_errors, float4 next, const unsigned* from, unsigned* to, unsigned base,
                            unsigned (&out)[S::words]) {
    const int q = warp >> 1, half = warp & 1, a = 32 * half + lane;
#pragma unroll
    for (int r = 0; r < 16; r++) {
      const unsigned k = 64 * a + 16 * q + r, g = from[(r & 3) * 1024 + 16 * a + (4 * q ^ (a >> 1 & 15) ^ r >> 2)] - base;
      const unsigned* d = row(errors, k * (k + 1) >> 4 & 0xFFC);
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const unsigned e = d[64 * j * (2 * r + 1) & 1023];
        out[j] = r == 0 ? g + e : __viaddmin_u16x2(g, e, out[j]);
      }
      if (r % 4 == 1) fill_errors(next_errors, next, r / 4);
    }
#pragma unroll
    for (int j = 0; j < 16; j++) to[q * 1024 + 64 * j + 32 * half + (lane ^ half ^ (2 * j & 15))] = out[j];
  }

 public:
  __device__ Search(Shared<KV>& shared, const float4* x, const float2* values, unsigned* history, int N)
      : shared(shared), x(x), values(values), history(history), N(N), tid(threadIdx.x), lane(tid & 31), warp(tid >> 5) {
#pragma unroll
    for (int i = 0; i < bins / threads; i++) own[i] = values[tid + i * threads];
  }

  // `count` steps: first, first + 1, … modulo N; or, not ahead, first, first - 1, … The group minima are kept in `history`
  // from the keep-th step on. Starts from shared.group, or anywhere.
  template <bool ahead> __device__ void pass(int first, int count, bool fixed, int keep, unsigned* history) {
    // Costs more than any true path of `reach` steps, so that no other start can win.
    constexpr unsigned never = S::reach * S::error_limit + 1;
    for (int k = tid; k < S::groups; k += threads)
      shared.costs[0][place<KV>(k)] = fixed ? (k == shared.group[0] ? 0 : never) | (k == shared.group[1] ? 0 : never) << 16 : 0;
    if (tid < 2) shared.least[0][tid] = ~0u;
    int next = first;
#pragma unroll
    for (int i = 0; i < bins / threads; i++) fill_errors(shared.errors[0], x[next], i);
    __syncthreads();
    for (int t = 0; t < count; t++) {
      next = ahead ? (next + 1 == N ? 0 : next + 1) : max(next - 1, 0);
      unsigned *const least_now = shared.least[t / period & 1], *const least_before = shared.least[t / period + 1 & 1];
      const unsigned base = t % period == 0 && t > 0 ? least_before[0] | least_before[1] << 16 : 0;
      unsigned out[S::words];
      int group = 0;
      if constexpr (ahead) step(shared.errors[t & 1], shared.errors[t + 1 & 1], x[next], shared.costs[t & 1], shared.costs[t + 1 & 1], base, out, group);
      else step_back(shared.errors[t & 1], shared.errors[t + 1 & 1], x[next], shared.costs[t & 1], shared.costs[t + 1 & 1], base, out);
      if (t >= keep) {
        unsigned* to = history + (int64_t)t * S::groups;
        if constexpr (KV == 8) to[group] = out[0];
        else {
#pragma unroll
          for (int i = 0; i < S::words; i += 4)
            reinterpret_cast<uint4*>(to)[i / 4 * threads + tid] = make_uint4(out[i], out[i + 1], out[i + 2], out[i + 3]);
        }
      }
      if (t % period == period - 1) {
        unsigned low = ~0u, high = ~0u;
#pragma unroll
        for (int i = 0; i < S::words; i++) low = min(low, out[i] & 0xFFFF), high = min(high, out[i] >> 16);
        low = __reduce_min_sync(~0u, low), high = __reduce_min_sync(~0u, high);
        if (lane == 0) atomicMin(&least_now[0], low), atomicMin(&least_now[1], high);
      } else if (t % period == 0 && t > 0 && tid < 2) {
        least_now[tid] = ~0u;
      }
      __syncthreads();
    }
  }

  // After a pass back of `count` steps: shared.group = argmin over groups of its costs and those kept by the pass ahead.
  __device__ void meet(int count, const unsigned* ahead) {
    if (tid < 2) shared.best[tid] = ~0u;
    __syncthreads();
    unsigned low = ~0u, high = ~0u;
#pragma unroll
    for (int i = 0; i < S::words; i++) {
      const unsigned k = tid + i * threads, one = shared.costs[count & 1][place<KV>(k)], other = ahead[kept<KV>(k)];
      low = min(low, (one & 0xFFFF) + (other & 0xFFFF) << 12 | k), high = min(high, (one >> 16) + (other >> 16) << 12 | k);
    }
    low = __reduce_min_sync(~0u, low), high = __reduce_min_sync(~0u, high);
    if (lane == 0) atomicMin(&shared.best[0], low), atomicMin(&shared.best[1], high);
    __syncthreads();
    if (tid < 2) shared.group[tid] = shared.best[tid] & 4095;
    __syncthreads();
  }

  // Sequence `warp`'s best last group, by a warp.
  __device__ int best_group() const {
    unsigned cost = ~0u, where = 0;
    for (int k = lane; k < S::groups; k += 32) {
      const unsigned c = shared.costs[N & 1][place<KV>(k)] >> 16 * warp & 0xFFFF;
      if (c < cost) cost = c, where = k;
    }
    return warp_argmin(cost, where);
  }

  // Sequence `which`: the states of a pass ahead's steps count-1 down to `until`, from the group after them, by a warp; returns
  // the group before them. start: the group before the first step, or -1.
  __device__ int trace(int which, int k, int first, int count, int start, int until, const unsigned* history, uint16_t* states) const {
    for (int t = count - 1; t >= until; t--) {
      const int step = first + t < N ? first + t : first + t - N;
      int s;
      if (t == 0 && start >= 0) {
        s = start << KV | (k & ((1 << KV) - 1));
      } else {
        unsigned best = ~0u;
#pragma unroll
        for (int i = 0; i < (KV == 8 ? 8 : KV == 6 ? 2 : 1); i++) {
          const unsigned j = 32 * i + lane, c = j << (16 - KV) | k;
          if (KV == 4 && lane >= 16) break;
          unsigned cost = state_error(which, step, c);
          if (t > 0) cost += history[(int64_t)(t - 1) * S::groups + kept<KV>(c >> KV)] >> 16 * which & 0xFFFF;
          best = min(best, cost << 8 | j);
        }
        s = (__reduce_min_sync(~0u, best) & 255) << (16 - KV) | k;
      }
      if (states && lane == 0) states[step] = s;
      k = s >> KV;
    }
    return k;
  }

  // The same for a pass back, KV = 4, that began at step `first` after the group `end`: from the group before its last step.
  __device__ void trace_back(int which, int k, int first, int count, int end, const unsigned* history, uint16_t* states) const {
    for (int t = count - 1; t >= 0; t--) {
      int s = k << KV | (end & 15);
      if (t > 0) {
        unsigned best = ~0u;
        if (lane < 16) {
          const unsigned c = k << KV | lane;
          best = state_error(which, first - t, c) + (history[(int64_t)(t - 1) * S::groups + kept_back(c & 4095)] >> 16 * which & 0xFFFF) << 8 | lane;
        }
        s = k << KV | (__reduce_min_sync(~0u, best) & 15);
      }
      if (lane == 0) states[first - t] = s;
      k = s & 4095;
    }
  }

 private:
  __device__ unsigned state_error(int which, int step, unsigned s) const {
    const float4 both = x[step];
    return error_of(values[s * (s + 1) >> 6 & 1023], which ? both.z : both.x, which ? both.w : both.y, S::error_limit) & 0xFFFF;
  }
};

template <int KV, int residents> __global__ void __launch_bounds__(threads, residents) hashed_kernel(const Launch a) {
  using S = Shape<KV>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<KV>*>(memory);
  auto* x = reinterpret_cast<float4*>(memory + sizeof(Shared<KV>));  // [N]
  auto* states = reinterpret_cast<uint16_t*>(x + a.N);               // [2][N]
  const float2* values = reinterpret_cast<const float2*>(a.workspace);
  const size_t bytes = size_t(a.N) * S::groups * sizeof(unsigned);
  auto* history = reinterpret_cast<unsigned*>(a.workspace + bins * sizeof(float2) + blockIdx.x * bytes);
  const float scale = sqrtf(S::error_limit / (S::range * a.limit * a.limit));
  const int half = a.N / 2, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  Search<KV> search(shared, x, values, history, a.N);

  for (int64_t pair = blockIdx.x; 2 * pair < a.sequences; pair += gridDim.x) {
    const int64_t second = min(2 * pair + 1, a.sequences - 1);  // an odd one out is searched twice
    for (int i = threadIdx.x; i < 2 * a.T; i += threads) {
      const int which = i >= a.T, at = which ? i - a.T : i;
      const float z = fminf(fmaxf(a.z[(which ? second : 2 * pair) * a.T + at], -a.limit), a.limit);
      reinterpret_cast<float*>(x + (at >> 1))[2 * which + (at & 1)] = z * scale;
    }
    __syncthreads();
    if constexpr (KV == 4) {
      // Both passes run ahead over one half of the sequence and back over the other; the best group between them is where their
      // sum is least: the first pass keeps no history and needs no traceback, the second's two run side by side.
      unsigned *const last = history + (half - 1) * S::groups, *const back = last + S::groups;
      for (int round = 0; round < 2; round++) {
        search.template pass<true>(round ? 0 : a.N - half, half, round, round ? 0 : half - 1, history);
        search.template pass<false>(round ? a.N - 1 : a.N - half - 1, a.N - half, round, round ? 0 : a.N, back);
        if (threadIdx.x < 2) shared.overlap[threadIdx.x] = shared.group[threadIdx.x];
        search.meet(a.N - half, last);
      }
      const int which = warp & 1, group = shared.group[which], overlap = shared.overlap[which];
      if (warp < 2) search.trace(which, group, 0, half, overlap, 0, history, states + which * a.N);
      else if (warp < 4) search.trace_back(which, group, a.N - 1, a.N - half, overlap, back, states + which * a.N);
    } else {
      search.template pass<true>(a.N - half, a.N, false, half - 1, history);  // turned right by half
      if (warp < 2) {
        const int group = search.trace(warp, search.best_group(), a.N - half, a.N, -1, half, history, nullptr);
        if (lane == 0) shared.group[warp] = group;
      }
      __syncthreads();
      search.template pass<true>(0, a.N, true, 0, history);
      if (warp < 2) search.trace(warp, shared.group[warp], 0, a.N, shared.group[warp], 0, history, states + warp * a.N);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * a.N; i += threads) {
      const int which = i >= a.N, t = which ? i - a.N : i;
      const int64_t at = (2 * pair + which) * a.N + t;
      if (2 * pair + which >= a.sequences) continue;
      a.codes[at] = states[i];
      reinterpret_cast<float2*>(a.values)[at] = reinterpret_cast<const float2*>(a.table)[states[i]];
    }
    __syncthreads();
  }
}

// The distinct values, scaled to quanta: from any state of each.
__global__ void distinct_values(const float2* table, float2* values, float range, float error_limit, float limit) {
  const unsigned s = blockIdx.x * blockDim.x + threadIdx.x;
  const float scale = sqrtf(error_limit / (range * limit * limit));
  const float2 c = table[s];
  values[s * (s + 1) >> 6 & 1023] = make_float2(c.x * scale, c.y * scale);
}

size_t shared_bytes(const Launch& a) {
  const size_t fixed = a.KV == 4 ? sizeof(Shared<4>) : a.KV == 6 ? sizeof(Shared<6>) : sizeof(Shared<8>);
  return fixed + a.N * (sizeof(float4) + 2 * sizeof(uint16_t));
}

template <int KV, int residents> cudaError_t launch(const Launch& a) {
  using S = Shape<KV>;
  const size_t shared = shared_bytes(a);
  const auto kernel = hashed_kernel<KV, residents>;
  if (const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared))) return error;
  distinct_values<<<256, 256, 0, a.stream>>>(reinterpret_cast<const float2*>(a.table), reinterpret_cast<float2*>(a.workspace), S::range,
                                            S::error_limit, a.limit);
  kernel<<<a.blocks, threads, shared, a.stream>>>(a);
  return cudaGetLastError();
}

// With few sequences a block has a multiprocessor to itself and takes more registers: more loads under way.
template <int KV> cudaError_t launch(const Launch& a) {
  const int each = (a.blocks + a.multiprocessors - 1) / a.multiprocessors;
  return each == 1 ? launch<KV, 1>(a) : each == 2 ? launch<KV, 2>(a) : launch<KV, 4>(a);
}

}  // namespace

const Family hashed_family = {
    [](const Launch& a, int available) {
      return a.L == 16 && a.V == 2 && (a.KV == 4 || a.KV == 6 || a.KV == 8) && a.N >= 8 && a.N <= 512 && shared_bytes(a) <= (size_t)available;
    },
    [](const Launch&) { return bins * sizeof(float2); },
    [](const Launch& a) { return (size_t)a.N * sizeof(unsigned) << (16 - a.KV); },
    [](const Launch& a) { return (int)min((a.sequences + 1) / 2, (int64_t)4 * a.multiprocessors); },
    [](const Launch& a) { return a.KV == 4 ? launch<4>(a) : a.KV == 6 ? launch<6>(a) : launch<8>(a); },
};

}  // namespace ops::trellis
