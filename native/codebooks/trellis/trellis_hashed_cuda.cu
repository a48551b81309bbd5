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
#include "trellis_hashed.cuh"

namespace ops::trellis {
namespace {

template <int KV> struct alignas(16) Shared {
  unsigned errors[2][2 * bins];  // these two are also the traceback's ring
  unsigned costs[2][Shape<KV>::groups];
  static_assert(KV == 4 || sizeof errors + sizeof costs >= ring_rows * sizeof costs[0]);
  unsigned least[2][2];  // of this period's last step, and of the last period's
  unsigned best[2];
  int group[2], overlap[2];
};

template <int KV> class Search {
  using S = Shape<KV>;
  Shared<KV>& shared;
  const float4* x;  // as in Aims
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
  template <bool symmetric> __device__ void step(const unsigned* errors, unsigned* next_errors, float4 next, const unsigned* from, unsigned* to, unsigned base,
                       unsigned (&out)[S::words], int& group) {
    if constexpr (KV == 4) {
      const int q = warp >> 1, half = warp & 1, a = 32 * half + lane;
      unsigned g[16];
#pragma unroll
      for (int j = 0; j < 16; j++) g[j] = from[q * 1024 + 64 * j + 32 * half + (lane ^ half ^ (2 * j & 15))] - base;
#pragma unroll
      for (int r = 0; r < (symmetric ? 8 : 16); r++) {
        const unsigned k = 64 * a + 16 * q + r;
        const unsigned* d = row(errors, k * (k + 1) >> 4 & 0xFFC);
        unsigned even = g[0] + d[0], odd = g[1] + d[64 * (2 * r + 1) & 1023];
#pragma unroll
        for (int j = 2; j < 16; j += 2) {
          even = __viaddmin_u16x2(g[j], d[64 * j * (2 * r + 1) & 1023], even);
          odd = __viaddmin_u16x2(g[j + 1], d[64 * (j + 1) * (2 * r + 1) & 1023], odd);
        }
        out[r] = __vminu2(even, odd);
        const int low = 16 * a + (4 * q ^ (a >> 1 & 15) ^ r >> 2);
        to[(r & 3) * 1024 + low] = out[r];
        if constexpr (symmetric) to[(3 - (r & 3)) * 1024 + (low ^ 1008)] = out[r];
        constexpr int every = symmetric ? 2 : 4;
        if (r % every == 1) fill_errors(next_errors, next, r / every);
      }
    } else {
      // A warp has 8 c (symmetric: 4) and all j; lanes that share a group (2 for KV = 6, 8 for KV = 8) have different j.
      constexpr int wide = symmetric ? columns / 2 : columns;
      unsigned g[32], best[wide];
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
      for (int y = 0; y < wide; y++) {
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
        if (KV == 6 && y % (wide / 4) == 0) fill_errors(next_errors, next, y / (wide / 4));
      }
      // Lanes 16 apart exchange: each keeps every other c. KV = 8: then lanes 8 apart, and 4 apart, while there are c left.
      const bool bit4 = lane & 16;
      unsigned half[wide / 2];
#pragma unroll
      for (int z = 0; z < wide / 2; z++)
        half[z] = __vminu2(bit4 ? best[2 * z + 1] : best[2 * z], __shfl_xor_sync(~0u, bit4 ? best[2 * z] : best[2 * z + 1], 16));
      if constexpr (KV == 6) {
#pragma unroll
        for (int z = 0; z < wide / 2; z++) {
          const int at = place<6>(64 * (lane & 15) + columns * warp + 2 * z + bit4);
          out[z] = half[z];
          to[at] = half[z];
          if constexpr (symmetric) to[at ^ 1023 ^ 30] = half[z];
        }
      } else {
        const bool bit3 = lane & 8, bit2 = lane & 4;
        unsigned quarter[2];
#pragma unroll
        for (int z = 0; z < wide / 4; z++)
          quarter[z] = __vminu2(bit3 ? half[2 * z + 1] : half[2 * z], __shfl_xor_sync(~0u, bit3 ? half[2 * z] : half[2 * z + 1], 8));
        if constexpr (symmetric) quarter[1] = quarter[0];  // of two lanes with one group, one keeps its mirror image
        group = 64 * (lane & 3) + columns * warp + 2 * bit3 + bit4;
        if (bit2) group = symmetric ? S::groups - 1 - group : group + 4;
        out[0] = __vminu2(bit2 ? quarter[1] : quarter[0], __shfl_xor_sync(~0u, bit2 ? quarter[0] : quarter[1], 4));
        to[place<8>(group)] = out[0];
      }
    }
  }

  // Backward, KV = 4: to[k] = min_r from[s mod 4096] + D[W(s)], s = 16·k + r; out: this thread's groups, in the order of `kept_back`.
  template <bool symmetric>
  __device__ void step_back(const unsigned* errors, unsigned* next_errors, float4 next, const unsigned* from, unsigned* to, unsigned base,
                            unsigned (&out)[S::words]) {
    const int q = warp >> 1, half = warp & 1, a = 32 * half + lane;
#pragma unroll
    for (int r = 0; r < 16; r++) {
      const unsigned k = 64 * a + 16 * q + r, g = from[(r & 3) * 1024 + 16 * a + (4 * q ^ (a >> 1 & 15) ^ r >> 2)] - base;
      const unsigned* d = row(errors, k * (k + 1) >> 4 & 0xFFC);
#pragma unroll
      for (int j = 0; j < (symmetric ? 8 : 16); j++) {
        const unsigned e = d[64 * j * (2 * r + 1) & 1023];
        out[j] = r == 0 ? g + e : __viaddmin_u16x2(g, e, out[j]);
      }
      if (r % 4 == 1) fill_errors(next_errors, next, r / 4);
    }
#pragma unroll
    for (int j = 0; j < (symmetric ? 8 : 16); j++) {
      const int low = 64 * j + 32 * half + (lane ^ half ^ (2 * j & 15));
      to[q * 1024 + low] = out[j];
      if constexpr (symmetric) to[(3 - q) * 1024 + (low ^ 1008)] = out[j];
    }
  }

 public:
  __device__ Search(Shared<KV>& shared, const float4* x, const float2* values, int N)
      : shared(shared), x(x), N(N), tid(threadIdx.x), lane(tid & 31), warp(tid >> 5) {
#pragma unroll
    for (int i = 0; i < bins / threads; i++) own[i] = values[tid + i * threads];
  }

  // `count` steps: first, first + 1, … modulo N; or, not ahead, first, first - 1, … The group minima are kept in `history`
  // from the keep-th step on. Starts from shared.group, or anywhere.
  //
  // s(s+1) is the same for s and 65535 - s: a path and its complement cost the same, and as long as nothing but the targets
  // tells groups apart, so do k and its complement. symmetric: then one of each two is worked out (bit 3 of k clear, bit 2 for
  // KV > 4, the highest when going back) and stored twice; the history has these alone, but all for KV = 8.
  template <bool ahead, bool symmetric> __device__ void pass(int first, int count, int keep, unsigned* history) {
    constexpr bool fixed = !symmetric;
    constexpr int made = symmetric && S::words > 1 ? S::words / 2 : S::words;
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
      unsigned *const errors = shared.errors[t & 1], *const next_errors = shared.errors[t + 1 & 1];
      if constexpr (ahead) step<symmetric>(errors, next_errors, x[next], shared.costs[t & 1], shared.costs[t + 1 & 1], base, out, group);
      else step_back<symmetric>(errors, next_errors, x[next], shared.costs[t & 1], shared.costs[t + 1 & 1], base, out);
      if (t >= keep) {
        unsigned* to = history + (int64_t)t * S::groups;
        if constexpr (KV == 8) to[group] = out[0];
        else if constexpr (made == 2) reinterpret_cast<uint2*>(to)[2 * tid] = make_uint2(out[0], out[1]);
        else {
#pragma unroll
          for (int i = 0; i < made; i += 4)
            reinterpret_cast<uint4*>(to)[i / 4 * threads + tid] = make_uint4(out[i], out[i + 1], out[i + 2], out[i + 3]);
        }
      }
      if (t % period == period - 1) {
        unsigned low = ~0u, high = ~0u;
#pragma unroll
        for (int i = 0; i < made; i++) low = min(low, out[i] & 0xFFFF), high = min(high, out[i] >> 16);
        low = __reduce_min_sync(~0u, low), high = __reduce_min_sync(~0u, high);
        if (lane == 0) atomicMin(&least_now[0], low), atomicMin(&least_now[1], high);
      } else if (t % period == 0 && t > 0 && tid < 2) {
        least_now[tid] = ~0u;
      }
      __syncthreads();
    }
  }

  // After a pass back of `count` steps: shared.group = argmin over groups of its costs and those kept by the pass ahead.
  template <bool symmetric> __device__ void meet(int count, const unsigned* ahead) {
    if (tid < 2) shared.best[tid] = ~0u;
    __syncthreads();
    unsigned low = ~0u, high = ~0u;
#pragma unroll
    for (int i = 0; i < S::words; i++) {
      const unsigned k = tid + i * threads;
      if (symmetric && k & 8) continue;
      const unsigned one = shared.costs[count & 1][place<KV>(k)], other = ahead[kept<KV>(k)];
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
  Search<KV> search(shared, x, values, a.N);
  const Aims aims{x, values, a.N};

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
      search.template pass<true, true>(a.N - half, half, half - 1, history);
      search.template pass<false, true>(a.N - half - 1, a.N - half, a.N, back);
      search.template meet<true>(a.N - half, last);
      if (threadIdx.x < 2) shared.overlap[threadIdx.x] = shared.group[threadIdx.x];
      search.template pass<true, false>(0, half, 0, history);
      search.template pass<false, false>(a.N - 1, a.N - half, 0, back);
      search.template meet<false>(a.N - half, last);
      const int which = warp & 1, group = shared.group[which], overlap = shared.overlap[which];
      if (warp < 2) trace(aims, which, group, 0, half, overlap, history, states + which * a.N);
      else if (warp < 4) trace_back(aims, which, group, a.N - 1, a.N - half, overlap, back, states + which * a.N);
    } else {
      auto* const ring = reinterpret_cast<unsigned*>(memory);
      search.template pass<true, true>(a.N - half, a.N, half - 1, history);  // turned right by half
      const int group = trace<KV, KV == 6>(aims, ring, warp < 2 ? search.best_group() : 0, a.N - half, a.N, -1, half, history, nullptr);
      if (warp < 2 && lane == 0) shared.group[warp] = group;
      __syncthreads();
      search.template pass<true, false>(0, a.N, 0, history);
      const int overlap = shared.group[warp & 1];
      trace<KV, false>(aims, ring, overlap, 0, a.N, overlap, 0, history, states);
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
