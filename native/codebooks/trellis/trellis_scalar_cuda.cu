// The search for one weight a step (V = 1), L = 16, KV = 2, 3, 4, any table: 1mad, 3inst, mul1, lut.
//
//   forward   g_t[k] = min_j g_{t-1}[s >> KV] + |table[s] - x_t|²     s = j·G + k, G = 2^(16-KV) groups
//   backward  h_t[k] = min_r h_{t+1}[s mod G] + |table[s] - x_t|²     s = k·2^KV + r
//
// A block of 1024 threads holds the whole table in fp16 (128 KiB) and the group minima of a pair of sequences (half2) in shared
// memory. The states of a step fall into butterflies: 2^KV groups in, the same number out, 4^KV states between. A thread
// does one (KV = 3), two steps of four at once (KV = 2), or a quarter (KV = 4). A pair of states costs
// HADD2, HFMA2 and half a three-way minimum (fp16 numbers that are not negative order as their bits do).
//
// Each pass runs forward over one half of the sequence and backward over the other; the best group between them is
// argmin g + h. So the first pass keeps no history and needs no traceback, and the second's two tracebacks run side by side.
// The group minima's least is taken off every eight steps: fp16 is finest near the best path.
#include <cuda_fp16.h>

#include "trellis_cuda.cuh"

namespace ops::trellis {
namespace {

constexpr int butterflies = 1024, threads = 512, share = butterflies / threads, states = 1 << 16, infinity = 0x7C00;

// Words of 16 bytes trade places within pairs so that reads with a stride of 32 bytes meet all banks.
__device__ int table_place(int bytes) { return bytes ^ (bytes >> 7 & 1) << 4; }
// Likewise for the group minima, read with a stride of 64 bytes.
__device__ int cost_place(int group) { return group ^ (group >> 5 & 3) << 2; }

template <int KV> struct Shape {
  static constexpr int groups = states >> KV;
  static constexpr int turns = KV == 2 ? 2 : 1;        // steps taken at once
  static constexpr int bits = KV * turns;              // bits in and out of a turn
  static constexpr int words = groups / butterflies;   // group minima that a butterfly (KV = 4: a quarter) ends a turn with
  static constexpr int period = 8 / turns;             // turns between rebasings
  static constexpr int buffers = KV == 2 ? 1 : 2;      // KV = 2 has room for one
};

__device__ __half2 as_half2(unsigned bits) { return *reinterpret_cast<__half2*>(&bits); }
__device__ unsigned as_bits(__half2 x) { return *reinterpret_cast<unsigned*>(&x); }

// Costs of both sequences after a state of value `half` (0 low, 1 high) of `two`; minus: -x.
template <int half> __device__ unsigned cost(unsigned two, __half2 minus, unsigned before) {
  const __half2 c = half ? __high2half2(as_half2(two)) : __low2half2(as_half2(two));
  const __half2 d = __hadd2(c, minus);
  return as_bits(__hfma2(d, d, as_half2(before)));
}

struct Shared {
  unsigned long long best[2];  // cost bits, then group
  unsigned least[2][2];  // of this period's last turn, and of the last period's
  int group[2], overlap[2];
};

template <int KV> class Search {
  using S = Shape<KV>;
  unsigned char* const table;  // fp16 [2^16], placed
  unsigned* const costs;       // [buffers][groups], placed
  const __half2* const x;      // [N]: minus the targets
  Shared& shared;
  const int tid, lane;

  __device__ unsigned* buffer(int i) const { return costs + (S::buffers == 2 ? (i & 1) * S::groups : 0); }
  template <class T> __device__ T read_table(int bytes) const { return *reinterpret_cast<const T*>(table + bytes); }
  __device__ uint4 read_costs(const unsigned* from, int place) const { return *reinterpret_cast<const uint4*>(from + place); }

  // ── one turn, up to the thread's new group minima ─────────────────────────────────────────────────────────────
  __device__ void forward_turn(int b, const unsigned* from, int t, unsigned base, unsigned (&out)[S::words]) const {
    const __half2 minus_base = as_half2(base ^ 0x80008000u);
    const __half2 x0 = x[t];
    if constexpr (KV == 2) {
      const int place = cost_place(b), read_a = table_place(b << 3), read_b = table_place(b << 5);
      const __half2 x1 = x[t + 1];
      unsigned mid[4][4];  // [low bits of the first group's j][first new bits]
#pragma unroll
      for (int j0 = 0; j0 < 4; j0++) {
        unsigned c[4][4];
#pragma unroll
        for (int j1 = 0; j1 < 4; j1++) {
          const int j = 4 * j1 + j0;
          const unsigned g = as_bits(__hadd2(as_half2(from[j * 1024 + place]), minus_base));
          const uint2 two = read_table<uint2>(read_a + (j << 13));
          c[j1][0] = cost<0>(two.x, x0, g), c[j1][1] = cost<1>(two.x, x0, g);
          c[j1][2] = cost<0>(two.y, x0, g), c[j1][3] = cost<1>(two.y, x0, g);
        }
#pragma unroll
        for (int r = 0; r < 4; r++) mid[j0][r] = __vminu2(__vimin3_u16x2(c[0][r], c[1][r], c[2][r]), c[3][r]);
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          const uint4 p = read_table<uint4>((read_b ^ h << 4) + (j << 15)), q = read_table<uint4>((read_b ^ h << 4) + (j + 1 << 15));
          const unsigned two[2][4] = {{p.x, p.y, p.z, p.w}, {q.x, q.y, q.z, q.w}};
#pragma unroll
          for (int i = 0; i < 8; i++) {  // r1 = 2h + i/4, r0 = i mod 4
            const int r1 = 2 * h + i / 4;
            const unsigned first = i & 1 ? cost<1>(two[0][i / 2], x1, mid[j][r1]) : cost<0>(two[0][i / 2], x1, mid[j][r1]);
            const unsigned second = i & 1 ? cost<1>(two[1][i / 2], x1, mid[j + 1][r1]) : cost<0>(two[1][i / 2], x1, mid[j + 1][r1]);
            out[8 * h + i] = j == 0 ? __vminu2(first, second) : __vimin3_u16x2(out[8 * h + i], first, second);
          }
        }
      }
    } else if constexpr (KV == 3) {
      const int place = cost_place(b), read = table_place(b << 4);
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        const unsigned g = as_bits(__hadd2(as_half2(from[j * 1024 + place]), minus_base));
        const unsigned g1 = as_bits(__hadd2(as_half2(from[(j + 1) * 1024 + place]), minus_base));
        const uint4 p = read_table<uint4>(read + (j << 14)), q = read_table<uint4>(read + (j + 1 << 14));
        const unsigned two[2][4] = {{p.x, p.y, p.z, p.w}, {q.x, q.y, q.z, q.w}};
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const unsigned first = i & 1 ? cost<1>(two[0][i / 2], x0, g) : cost<0>(two[0][i / 2], x0, g);
          const unsigned second = i & 1 ? cost<1>(two[1][i / 2], x0, g1) : cost<0>(two[1][i / 2], x0, g1);
          out[i] = j == 0 ? __vminu2(first, second) : __vimin3_u16x2(out[i], first, second);
        }
      }
    } else {  // butterfly b/4, new bits 4·(b mod 4) + i
      const int p = b >> 2, read = table_place(b << 3);
#pragma unroll
      for (int j = 0; j < 16; j += 2) {
        const unsigned g = as_bits(__hadd2(as_half2(from[j * 256 + cost_place(p)]), minus_base));
        const unsigned g1 = as_bits(__hadd2(as_half2(from[(j + 1) * 256 + cost_place(p)]), minus_base));
        const uint2 c = read_table<uint2>(read + (j << 13)), d = read_table<uint2>(read + (j + 1 << 13));
        const unsigned two[2][2] = {{c.x, c.y}, {d.x, d.y}};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const unsigned first = i & 1 ? cost<1>(two[0][i / 2], x0, g) : cost<0>(two[0][i / 2], x0, g);
          const unsigned second = i & 1 ? cost<1>(two[1][i / 2], x0, g1) : cost<0>(two[1][i / 2], x0, g1);
          out[i] = j == 0 ? __vminu2(first, second) : __vimin3_u16x2(out[i], first, second);
        }
      }
    }
  }

  // Steps t (and t + 1): from the group minima after them to those before.
  __device__ void backward_turn(int b, const unsigned* from, int t, unsigned base, unsigned (&out)[S::words]) const {
    const __half2 minus_base = as_half2(base ^ 0x80008000u);
    const auto rebased = [&](unsigned g) { return as_bits(__hadd2(as_half2(g), minus_base)); };
    const __half2 x0 = x[t];
    if constexpr (KV == 2) {
      const int read_a = table_place(b << 3), read_b = table_place(b << 5), place = cost_place(16 * b);
      const __half2 x1 = x[t + 1];
      unsigned mid[4][4];  // [j0][r1]
#pragma unroll
      for (int h = 0; h < 2; h++) {
        unsigned g[8];
#pragma unroll
        for (int v = 0; v < 2; v++) {
          const uint4 four = read_costs(from, place ^ (2 * h + v) << 2);
          g[4 * v] = rebased(four.x), g[4 * v + 1] = rebased(four.y), g[4 * v + 2] = rebased(four.z), g[4 * v + 3] = rebased(four.w);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const uint4 p = read_table<uint4>((read_b ^ h << 4) + (j << 15));
          mid[j][2 * h] = __vminu2(__vimin3_u16x2(cost<0>(p.x, x1, g[0]), cost<1>(p.x, x1, g[1]), cost<0>(p.y, x1, g[2])), cost<1>(p.y, x1, g[3]));
          mid[j][2 * h + 1] = __vminu2(__vimin3_u16x2(cost<0>(p.z, x1, g[4]), cost<1>(p.z, x1, g[5]), cost<0>(p.w, x1, g[6])), cost<1>(p.w, x1, g[7]));
        }
      }
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const uint2 two = read_table<uint2>(read_a + (j << 13));
        const unsigned(&m)[4] = mid[j & 3];
        out[j] = __vminu2(__vimin3_u16x2(cost<0>(two.x, x0, m[0]), cost<1>(two.x, x0, m[1]), cost<0>(two.y, x0, m[2])), cost<1>(two.y, x0, m[3]));
      }
    } else if constexpr (KV == 3) {
      const int place = cost_place(8 * b), read = table_place(b << 4);
      const uint4 low = read_costs(from, place), high = read_costs(from, place ^ 4);
      const unsigned g[8] = {rebased(low.x), rebased(low.y), rebased(low.z), rebased(low.w),
                             rebased(high.x), rebased(high.y), rebased(high.z), rebased(high.w)};
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const uint4 p = read_table<uint4>(read + (j << 14));
        unsigned m = __vimin3_u16x2(cost<0>(p.x, x0, g[0]), cost<1>(p.x, x0, g[1]), cost<0>(p.y, x0, g[2]));
        m = __vimin3_u16x2(m, cost<1>(p.y, x0, g[3]), cost<0>(p.z, x0, g[4]));
        m = __vimin3_u16x2(m, cost<1>(p.z, x0, g[5]), cost<0>(p.w, x0, g[6]));
        out[j] = __vminu2(m, cost<1>(p.w, x0, g[7]));
      }
    } else {  // butterfly b mod 256, old bits 4·(b/256) + i
      const int p = b & 255, read = table_place(p << 5), place = cost_place(16 * p), quarter = b >> 8 << 2;
      unsigned g[16];
#pragma unroll
      for (int v = 0; v < 4; v++) {
        const uint4 four = read_costs(from, place ^ v << 2);
        g[4 * v] = rebased(four.x), g[4 * v + 1] = rebased(four.y), g[4 * v + 2] = rebased(four.z), g[4 * v + 3] = rebased(four.w);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        unsigned m = ~0u;
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const uint4 c = read_table<uint4>((read ^ h << 4) + (quarter + i << 13));
          m = __vimin3_u16x2(m, cost<0>(c.x, x0, g[8 * h]), cost<1>(c.x, x0, g[8 * h + 1]));
          m = __vimin3_u16x2(m, cost<0>(c.y, x0, g[8 * h + 2]), cost<1>(c.y, x0, g[8 * h + 3]));
          m = __vimin3_u16x2(m, cost<0>(c.z, x0, g[8 * h + 4]), cost<1>(c.z, x0, g[8 * h + 5]));
          m = __vimin3_u16x2(m, cost<0>(c.w, x0, g[8 * h + 6]), cost<1>(c.w, x0, g[8 * h + 7]));
        }
        out[i] = m;
      }
    }
  }

 public:
  // The group of word i that butterfly b ends a backward turn with.
  static __device__ int group_of(int b, int i) {
    if constexpr (KV == 4) return ((b >> 8 << 2) + i) * 256 + (b & 255);
    return i * 1024 + b;
  }
  // Where a turn's history holds a group.
  static __device__ int kept(bool ahead, int group) {
    int b, word;
    if (ahead) b = group / S::words, word = group % S::words;
    else if constexpr (KV == 4) b = (group >> 10 << 8) + (group & 255), word = group >> 8 & 3;
    else b = group & 1023, word = group >> 10;
    return (word >> 2) * 4096 + 4 * b + (word & 3);
  }

  __device__ Search(unsigned char* table, unsigned* costs, const __half2* x, Shared& shared)
      : table(table), costs(costs), x(x), shared(shared), tid(threadIdx.x), lane(tid & 31) {}

  // `turns` turns, from step `first` up or from step `first` down; fixed: from shared.group, or anywhere.
  // history: [turns][groups] or null. out: this thread's last group minima.
  template <bool ahead> __device__ void half_pass(int first, int turns, bool fixed, unsigned* history, unsigned (&out)[share][S::words]) const {
    __syncthreads();
    for (int k = tid; k < S::groups; k += threads)
      costs[cost_place(k)] = fixed ? (k == shared.group[0] ? 0 : infinity) | (k == shared.group[1] ? 0 : infinity) << 16 : 0;
    if (tid < 2) shared.least[0][tid] = infinity;
    __syncthreads();
    for (int n = 0; n < turns; n++) {
      unsigned *const least_now = shared.least[n / S::period & 1], *const least_before = shared.least[n / S::period + 1 & 1];
      const unsigned base = n % S::period == 0 && n > 0 ? least_before[0] | least_before[1] << 16 : 0;
#pragma unroll
      for (int i = 0; i < share; i++) {
        if constexpr (ahead) forward_turn(tid + i * threads, buffer(n), first + n * S::turns, base, out[i]);
        else backward_turn(tid + i * threads, buffer(n), first - (n + 1) * S::turns + 1, base, out[i]);
      }
      if (history) keep(history + (int64_t)n * S::groups, out);
      if constexpr (S::buffers == 1) __syncthreads();
      unsigned* to = buffer(n + 1);
#pragma unroll
      for (int b = 0; b < share; b++) {
        if constexpr (ahead) {
#pragma unroll
          for (int i = 0; i < S::words; i += 4)
            *reinterpret_cast<uint4*>(to + (cost_place(S::words * (tid + b * threads)) ^ i)) =
                make_uint4(out[b][i], out[b][i + 1], out[b][i + 2], out[b][i + 3]);
        } else {
#pragma unroll
          for (int i = 0; i < S::words; i++) to[cost_place(group_of(tid + b * threads, i))] = out[b][i];
        }
      }
      if (n % S::period == S::period - 1) {
        unsigned least = out[0][0];
#pragma unroll
        for (int i = 1; i < share * S::words; i++) least = __vminu2(least, out[i / S::words][i % S::words]);
        const unsigned low = __reduce_min_sync(~0u, least & 0xFFFF), high = __reduce_min_sync(~0u, least >> 16);
        if (lane == 0) atomicMin(&least_now[0], low), atomicMin(&least_now[1], high);
      } else if (n % S::period == 0 && n > 0 && tid < 2) {
        least_now[tid] = infinity;
      }
      __syncthreads();
    }
  }

  // Group minima to one turn's history.
  __device__ void keep(unsigned* history, const unsigned (&out)[share][S::words]) const {
#pragma unroll
    for (int b = 0; b < share; b++)
#pragma unroll
      for (int i = 0; i < S::words; i += 4)
        reinterpret_cast<uint4*>(history)[i / 4 * butterflies + tid + b * threads] = make_uint4(out[b][i], out[b][i + 1], out[b][i + 2], out[b][i + 3]);
  }

  // shared.group = argmin over groups of ahead + out, for both sequences; ahead: the forward half's last history.
  __device__ void meet(const unsigned* ahead, const unsigned (&out)[share][S::words]) const {
    if (tid < 2) shared.best[tid] = ~0ull;
    __syncthreads();
    float best[2] = {INFINITY, INFINITY};
    unsigned where[2] = {};
#pragma unroll
    for (int i = 0; i < share * S::words; i++) {
      const int group = group_of(tid + i / S::words * threads, i % S::words);
      const float2 sum = [&] {
        const float2 a = __half22float2(as_half2(ahead[kept(true, group)])), b = __half22float2(as_half2(out[i / S::words][i % S::words]));
        return make_float2(a.x + b.x, a.y + b.y);
      }();
      if (sum.x < best[0]) best[0] = sum.x, where[0] = group;
      if (sum.y < best[1]) best[1] = sum.y, where[1] = group;
    }
    for (int which = 0; which < 2; which++) {
      const unsigned bits = __float_as_uint(best[which]), least = __reduce_min_sync(~0u, bits);
      const unsigned group = __reduce_min_sync(~0u, bits == least ? where[which] : ~0u);
      if (lane == 0) atomicMin(&shared.best[which], (unsigned long long)least << 32 | group);
    }
    __syncthreads();
    if (tid < 2) shared.group[tid] = (int)(shared.best[tid] & 0xFFFFFFFF);
    __syncthreads();
  }

  __device__ float error(int s, int t, int which) const {
    const float c = __half2float(*reinterpret_cast<const __half*>(table + table_place(2 * s)));
    const float d = c + __half2float(which ? __high2half(x[t]) : __low2half(x[t]));
    return d * d;
  }

  // States of `turns` turns from the meeting group k outwards, by one warp. end: the group at the far end.
  template <bool ahead> __device__ void trace(int which, int k, int first, int turns, int end, const unsigned* history, uint16_t* path) const {
    constexpr int mask = S::groups - 1, fan = 1 << S::bits, per_lane = fan > 32 ? fan / 32 : 1;
    for (int n = turns - 1; n >= 0; n--) {
      const int t = ahead ? first + n * S::turns : first - (n + 1) * S::turns + 1;
      const auto before = [&](int b) { return ahead ? b * (S::groups >> S::bits) + (k >> S::bits) : k; };  // the group before the turn
      const auto news = [&](int b) { return ahead ? k & (fan - 1) : b; };                                  // the turn's new bits
      float best = INFINITY;
      unsigned where = ~0u;
      for (int i = 0; i < per_lane; i++) {
        const int b = 32 * i + lane;
        if (b >= fan) break;
        const int from = before(b), bits = news(b), far = ahead ? from : (from << S::bits | bits) & mask;
        float sum = 0;
        if (n > 0) {
          const __half2 both = as_half2(history[(int64_t)(n - 1) * S::groups + kept(ahead, far)]);
          sum = __half2float(which ? __high2half(both) : __low2half(both));
        } else if (far != end) {
          continue;
        }
        const int s = from << KV | bits >> (S::bits - KV);
        sum += error(s, t, which);
        if constexpr (S::turns == 2) sum += error((s << KV | (bits & ((1 << KV) - 1))) & (states - 1), t + 1, which);
        if (sum < best) best = sum, where = b;
      }
      const int b = warp_argmin(__float_as_uint(best), where), from = before(b), bits = news(b), s = from << KV | bits >> (S::bits - KV);
      if (lane == 0) {
        path[t] = s;
        if constexpr (S::turns == 2) path[t + 1] = s << KV | (bits & ((1 << KV) - 1));
      }
      k = ahead ? from : (from << S::bits | bits) & mask;
    }
  }
};

template <int KV> __global__ void __launch_bounds__(threads, 1) scalar_kernel(const Launch a) {
  using S = Shape<KV>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto* costs = reinterpret_cast<unsigned*>(memory + 2 * states);
  auto* x = reinterpret_cast<__half2*>(costs + S::buffers * S::groups);  // [N]
  auto* path = reinterpret_cast<uint16_t*>(x + a.N);                     // [2][N]
  __shared__ Shared shared;
  const int tid = threadIdx.x, warp = tid >> 5, half = a.N / 2, turns = half / S::turns;
  unsigned* const ahead = reinterpret_cast<unsigned*>(a.workspace) + (int64_t)blockIdx.x * 2 * turns * S::groups;  // [turns][groups]
  unsigned* const back = ahead + (int64_t)turns * S::groups;
  Search<KV> search(memory, costs, x, shared);

  for (int i = tid; i < states; i += threads) *reinterpret_cast<__half*>(memory + table_place(2 * i)) = __float2half_rn(a.table[i]);
  for (int64_t pair = blockIdx.x; 2 * pair < a.sequences; pair += gridDim.x) {
    const int64_t second = min(2 * pair + 1, a.sequences - 1);  // an odd one out is searched twice
    const auto minus = [&](float z) { return -fminf(fmaxf(z, -a.limit), a.limit); };
    for (int t = tid; t < a.N; t += threads) x[t] = __floats2half2_rn(minus(a.z[2 * pair * a.N + t]), minus(a.z[second * a.N + t]));
    unsigned out[share][S::words];
    // The first pass turned by half: forward over the second half, backward over the first. The second pass as it is, between the overlaps.
    for (int pass = 0; pass < 2; pass++) {
      search.template half_pass<true>(pass ? 0 : half, turns, pass, pass ? ahead : nullptr, out);
      unsigned* last = ahead + (int64_t)(turns - 1) * S::groups;
      if (pass == 0) search.keep(last, out);
      search.template half_pass<false>(pass ? a.N - 1 : half - 1, turns, pass, pass ? back : nullptr, out);
      if (tid < 2) shared.overlap[tid] = shared.group[tid];
      search.meet(last, out);
    }
    if (warp < 2) search.template trace<true>(warp, shared.group[warp], 0, turns, shared.overlap[warp], ahead, path + warp * a.N);
    else if (warp < 4) search.template trace<false>(warp - 2, shared.group[warp - 2], a.N - 1, turns, shared.overlap[warp - 2], back, path + (warp - 2) * a.N);
    __syncthreads();
    for (int i = tid; i < 2 * a.N; i += threads) {
      const int which = i >= a.N, t = which ? i - a.N : i;
      if (2 * pair + which >= a.sequences) continue;
      const int64_t at = (2 * pair + which) * a.N + t;
      a.codes[at] = path[i];
      a.values[at] = a.table[path[i]];
    }
    __syncthreads();
  }
}

size_t shared_bytes(const Launch& a) {
  return 2 * states + (a.KV == 2 ? 1 : 2) * (sizeof(unsigned) * states >> a.KV) + a.N * (sizeof(__half2) + 2 * sizeof(uint16_t));
}

template <int KV> cudaError_t launch(const Launch& a) {
  const size_t shared = shared_bytes(a);
  if (const auto error = cudaFuncSetAttribute(scalar_kernel<KV>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)))
    return error;
  scalar_kernel<KV><<<a.blocks, threads, shared, a.stream>>>(a);
  return cudaGetLastError();
}

}  // namespace

const Family scalar_family = {
    [](const Launch& a, int available) {
      return a.L == 16 && a.V == 1 && a.KV >= 2 && a.KV <= 4 && a.N >= 32 && a.N <= 1024 && a.N % 4 == 0 &&
             shared_bytes(a) + sizeof(Shared) <= (size_t)available;
    },
    [](const Launch&) { return size_t{0}; },
    [](const Launch& a) { return (size_t)(a.KV == 2 ? a.N / 2 : a.N) * sizeof(unsigned) * states >> a.KV; },
    [](const Launch& a) { return (int)min((a.sequences + 1) / 2, (int64_t)a.multiprocessors); },
    [](const Launch& a) { return a.KV == 2 ? launch<2>(a) : a.KV == 3 ? launch<3>(a) : launch<4>(a); },
};

}  // namespace ops::trellis
