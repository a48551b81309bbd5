#include "attend_cache.h"

#include "../../core/bf16.cuh"
#include "../../core/cluster.cuh"
#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

constexpr int kWarps = 8;
constexpr int kCluster = 8;     // blocks that the keys of a part are dealt to
constexpr int kFew = 16;        // rows up to which one kernel does all
constexpr int kAhead = 4;       // runs of keys of a warp that are brought into the level-2 cache while the kernel before still runs
constexpr int kShare = 1024;    // keys that are worth one more part
constexpr int kCounters = 1 << 16;
constexpr float kLeast = -3.4e38f;

// How the keys of a row are cut. Constants, heads, rows, positions, and whether a slot is of one part say it, not the card's size, nor
// the capacity beyond that: sums are added in the same order everywhere.
struct Cut {
  int cluster;   // blocks of a part
  int share;     // keys of a part, at least
  int most;      // parts at most
  bool kept;     // the new rows are in the cache already
  bool is_early;  // what the cache holds may be read while the kernel before still runs
};

// PER neighbouring elements of a head as they are stored; nothing is waited for until they are asked for.
template <class T, int PER>
struct alignas(sizeof(T) * PER > 16 ? 16 : sizeof(T) * PER) Run {
  uint32_t words[sizeof(T) * PER / 4];
  __device__ float operator[](int l) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(words[l]);
    return l % 2 ? high_of(words[l / 2]) : low_of(words[l / 2]);
  }
  __device__ void set(const float (&x)[PER]) {
#pragma unroll
    for (int w = 0; w < static_cast<int>(sizeof(T)) * PER / 4; ++w) {
      if constexpr (sizeof(T) == 4) words[w] = __float_as_uint(x[w]);
      else words[w] = bf16_pair(x[2 * w], x[2 * w + 1]);
    }
  }
};

// FULL: 32 lanes of them are the head, and a lane's are one access.
template <bool FULL, class T, int PER>
__device__ void load(const T* head, int lane, int e, Run<T, PER>& to) {
  if constexpr (FULL) {
    to = *reinterpret_cast<const Run<T, PER>*>(head + lane * PER);
  } else {
    float x[PER];
#pragma unroll
    for (int l = 0; l < PER; ++l) x[l] = lane * PER + l < e ? widen(head[lane * PER + l]) : 0;
    to.set(x);
  }
}

// Σ over lanes of each of N values; a lane gets that of value lane / (32 / N).
template <int N, int OFFSET = 16, int SIZE>
__device__ float sums_of_lanes(float (&x)[SIZE], int lane) {
  if constexpr (OFFSET == 0) {
    return x[0];
  } else if constexpr (N == 1) {
    x[0] += __shfl_xor_sync(~0u, x[0], OFFSET);
    return sums_of_lanes<1, OFFSET / 2>(x, lane);
  } else {
    const bool is_upper = lane & OFFSET;
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      const float keep = is_upper ? x[n + N / 2] : x[n], give = is_upper ? x[n] : x[n + N / 2];
      x[n] = keep + __shfl_xor_sync(~0u, give, OFFSET);
    }
    return sums_of_lanes<N / 2, OFFSET / 2>(x, lane);
  }
}

// To where the cluster's block `rank` has `here`, and its inbox. A block that is alone was not launched as a cluster, and then cannot push.
__device__ inline void give(float* here, int rank, float value, const Inbox& inbox, bool is_alone) {
  if (is_alone) *here = value;
  else push(place_at(here, rank), value, place_at(&inbox, rank));
}

// Element `at` of a head, turned.
__device__ inline float turned(const float* head, int at, int half, float c, float s) {
  const float a = head[at], b = at < half ? -head[at + half] : head[at - half];
  return fmaf(b, s, a * c);
}

// The new rows of a prompt, whose keys and values other rows of it read from the cache.
template <class T>
__global__ void __launch_bounds__(kThreads) keep_kernel(const AttendCacheArgs args) {
  wait_for_previous();
  let_next_begin();
  const int64_t across = args.kv_heads * args.e, at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.t * across) return;
  const int64_t i = at / across, column = at % across;
  const int e = static_cast<int>(args.e), half = e / 2, l = static_cast<int>(column % e);
  const int slot = args.slots[i], position = args.positions[i];
  if (slot < 0 || slot >= args.count || position < 0 || position >= args.capacity) return;
  const int64_t angle = static_cast<int64_t>(position) * half + l % half, place = (slot * args.capacity + position) * across + column;
  narrow(turned(args.k + at - l, l, half, args.cos[angle], args.sin[angle]), reinterpret_cast<T*>(args.keys)[place]);
  narrow(args.v[at], reinterpret_cast<T*>(args.values)[place]);
}

// Rows of a launch whose keys and values go from one to another without the cache.
template <int PER>
constexpr int kMates = PER > 4 ? 4 : kFew;
// Keys that a warp has under way at once.
template <class T, int PER, int HEADS>
constexpr int kRun = sizeof(T) == 2 && PER <= 4 && HEADS <= 4 ? 8 : 4;
// Blocks that a multiprocessor is to hold at once: what registers are given for.
template <class T, int PER, int HEADS>
constexpr int kHeld = PER > 4 ? 1 : HEADS > 2 ? 2 : HEADS == 2 || sizeof(T) * PER * kRun<T, PER, HEADS> >= 64 ? 3 : 4;

// A cluster for each part of the keys of a row and up to HEADS heads that share them; runs of kKeys keys go round among its
// blocks, then its warps, whose lanes lie along the head. A softmax in the making is its largest score, Σ 2^(score − most) and
// Σ 2^(score − most)·v; those of warps are added up, those of blocks, each of which does a slice of the outputs, and those of parts.
template <class T, int PER, bool FULL, int HEADS>
__global__ void __launch_bounds__(kWarps * 32, kHeld<T, PER, HEADS>)
    attend_kernel(const AttendCacheArgs args, const Cut cut, float* parts, unsigned* done) {
  if (!cut.is_early) wait_for_previous();
  let_next_begin();
  constexpr int kAcross = 32 * PER, kKeys = kRun<T, PER, HEADS>, kLanes = 32 / (HEADS * kKeys);  // lanes that have the same score
  constexpr size_t kSums = sizeof(float) * kWarps * HEADS * kAcross, kFresh = sizeof(T) * kMates<PER> * 2 * kAcross;
  __shared__ alignas(16) uint8_t room[kSums > kFresh ? kSums : kFresh];
  auto& fresh = reinterpret_cast<T(&)[kMates<PER>][2][kAcross]>(room);       // keys and values of new rows, then
  auto& sums = reinterpret_cast<float(&)[kWarps][HEADS][kAcross]>(room);
  __shared__ alignas(16) float q[HEADS][kAcross];
  __shared__ float angles[kAcross], most_of[kWarps][HEADS], weight_of[kWarps][HEADS];
  __shared__ float received[HEADS * kAcross + kCluster], received_most[kCluster][HEADS], received_weight[kCluster][HEADS];
  const int e = FULL ? kAcross : static_cast<int>(args.e), half = e / 2, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t i = blockIdx.z, across = args.kv_heads * e;
  const int each = static_cast<int>(args.heads / args.kv_heads), groups = (each + HEADS - 1) / HEADS, kv = blockIdx.y / groups;
  const int head = kv * each + blockIdx.y % groups * HEADS, heads = min(HEADS, (kv + 1) * each - head);
  float* out = args.out + (i * args.heads + head) * e;
  const int slot = args.slots[i], position = args.positions[i];
  if (slot < 0 || slot >= args.count || position < 0 || position >= args.capacity) {
    wait_for_previous();
    for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < heads * e; at += gridDim.x * blockDim.x) out[at] = __uint_as_float(0x7fffffff);
    return;
  }
  const int all_end = position + 1, all_begin = args.window > 0 && all_end > args.window ? static_cast<int>(all_end - args.window) : 0;
  const int used = min(cut.most, (all_end - all_begin + cut.share - 1) / cut.share), part = blockIdx.x / cut.cluster, rank = blockIdx.x % cut.cluster;
  if (part >= used) return;
  const int slice = (heads * e + cut.cluster - 1) / cut.cluster, due = max(0, min(slice, heads * e - rank * slice));
  __shared__ Inbox inbox;
  if (threadIdx.x == 0) inbox.open();
  __syncwarp();
  if (threadIdx.x == 0) inbox.expect(sizeof(float) * cut.cluster * (due + 2 * HEADS));
  cluster_begin();
  const int length = (all_end - all_begin + used - 1) / used, begin = all_begin + part * length, end = min(begin + length, all_end);
  T* keys = reinterpret_cast<T*>(args.keys) + slot * args.capacity * across + static_cast<int64_t>(kv) * e;
  T* values = reinterpret_cast<T*>(args.values) + slot * args.capacity * across + static_cast<int64_t>(kv) * e;
  // Rows beside this one may be new to its slot as well: where row `lane` is among the keys of this block, else nowhere.
  unsigned mate = ~0u;
  if (!cut.kept && lane < args.t && args.slots[lane] == slot) {
    const int at = args.positions[lane];
    if (at >= begin && at < end && (at - begin) / kKeys % cut.cluster == rank) mate = at;
  }
  const unsigned mates = __ballot_sync(~0u, mate != ~0u);

  Run<T, PER> k[kKeys], v[kKeys];
  const auto fetch = [&](int first) {
    const T *k_at = keys + first * across, *v_at = values + first * across;
    const bool is_whole = first + kKeys <= end && !__any_sync(~0u, mate - first < kKeys);
#pragma unroll
    for (int u = 0; u < kKeys; ++u) {
      if (is_whole || (!__any_sync(~0u, mate == first + u) && first + u < end)) {
        load<FULL>(k_at + u * across, lane, e, k[u]);
        load<FULL>(v_at + u * across, lane, e, v[u]);
      } else {
        k[u] = v[u] = {};
      }
    }
  };
  const int step = cut.cluster * kWarps * kKeys;
  int key = begin + (warp * cut.cluster + rank) * kKeys;
  if (key < end) fetch(key);
  if (cut.is_early) {  // and the next into the level-2 cache: whoever makes q, k and v leaves the memory idle
    const int lines = (e * static_cast<int>(sizeof(T)) + 127) / 128;
    for (int ahead = key + step; ahead < min(end, key + kAhead * step); ahead += step) {
      for (int at = lane; at < 2 * kKeys * lines; at += 32) {
        const int u = at / lines % kKeys;
        if (ahead + u >= end) continue;
        const T* head_of = (at >= kKeys * lines ? values : keys) + (ahead + u) * across;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(reinterpret_cast<const char*>(head_of) + at % lines * 128));
      }
    }
  }
  for (int at = threadIdx.x; at < e; at += blockDim.x) {
    angles[at] = at < half ? args.cos[static_cast<int64_t>(position) * half + at] : args.sin[static_cast<int64_t>(position) * half + at - half];
  }
  for (int at = threadIdx.x; at < HEADS * kAcross; at += blockDim.x) q[0][at] = 0;
  __syncthreads();
  if (cut.is_early) wait_for_previous();
  const float scale = args.scale * 1.44269504f;  // exponentials are of base 2
  constexpr int kPairs = (HEADS * kAcross / 2 + kWarps * 32 - 1) / (kWarps * 32);
  float low[kPairs], high[kPairs];
#pragma unroll
  for (int n = 0; n < kPairs; ++n) {
    const int at = threadIdx.x + n * kWarps * 32;
    const float* from = args.q + (i * args.heads + head + at / half) * e + at % half;
    if (at < heads * half) low[n] = from[0], high[n] = from[half];
  }
#pragma unroll
  for (int n = 0; n < kPairs; ++n) {
    const int at = threadIdx.x + n * kWarps * 32, h = at / half, l = at % half;
    if (at >= heads * half) break;
    const float c = scale * angles[l], s = scale * angles[l + half];
    q[h][l] = fmaf(-high[n], s, low[n] * c), q[h][l + half] = fmaf(low[n], s, high[n] * c);
  }
  for (unsigned left = mates; left != 0; left &= left - 1) {
    const int row = __ffs(left) - 1, place = __shfl_sync(~0u, mate, row);
    for (int at = threadIdx.x; at < 2 * kAcross; at += blockDim.x) {
      const int l = at % kAcross, is_value = at / kAcross;
      const int64_t angle = static_cast<int64_t>(place) * half + (l < half ? l : l - half);
      const float* from = (is_value ? args.v : args.k) + row * across + static_cast<int64_t>(kv) * e;
      T& to = fresh[row][is_value][l];
      narrow(l >= e ? 0 : is_value ? from[l] : turned(from, l, half, args.cos[angle], args.sin[angle]), to);
      if (row == i && blockIdx.y % groups == 0 && l < e) (is_value ? values : keys)[place * across + l] = to;
    }
  }
  __syncthreads();

  float most = kLeast, weight = 0, sum[HEADS][PER] = {};
  for (; key < end; key += step) {
    float score[HEADS * kKeys];
if (__any_sync(~0u, mate - key < kKeys)) {
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        const int row = __ffs(__ballot_sync(~0u, mate == key + u)) - 1;
        if (row < 0) continue;
        k[u] = *reinterpret_cast<const Run<T, PER>*>(&fresh[row][0][lane * PER]);
        v[u] = *reinterpret_cast<const Run<T, PER>*>(&fresh[row][1][lane * PER]);
      }
    }
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      const Run<float, PER> own = *reinterpret_cast<const Run<float, PER>*>(&q[h][lane * PER]);
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        float& product = score[h * kKeys + u] = own[0] * k[u][0];
#pragma unroll
        for (int l = 1; l < PER; ++l) product = fmaf(own[l], k[u][l], product);
      }
    }
    const float mine = sums_of_lanes<HEADS * kKeys>(score, lane);
    const float masked = key + lane / kLanes % kKeys < end ? mine : -INFINITY;
    float larger = fmaxf(most, masked);
#pragma unroll
    for (int offset = kLanes; offset < kLanes * kKeys; offset *= 2) larger = fmaxf(larger, __shfl_xor_sync(~0u, larger, offset));
    const float before = exp2f(most - larger), own = exp2f(masked - larger);
    most = larger, weight = fmaf(weight, before, own);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      const float scale_of = __shfl_sync(~0u, before, h * kKeys * kLanes);
#pragma unroll
      for (int l = 0; l < PER; ++l) sum[h][l] *= scale_of;
#pragma unroll
      for (int u = 0; u < kKeys; ++u) {
        const float weight_of_key = __shfl_sync(~0u, own, (h * kKeys + u) * kLanes);
#pragma unroll
        for (int l = 0; l < PER; ++l) sum[h][l] = fmaf(weight_of_key, v[u][l], sum[h][l]);
      }
    }
    if (key + step < end) fetch(key + step);
  }

  // Warps.
  if (mates != 0) __syncthreads();  // its room is needed
#pragma unroll
  for (int offset = kLanes; offset < kLanes * kKeys; offset *= 2) weight += __shfl_xor_sync(~0u, weight, offset);
  if (lane % (kLanes * kKeys) == 0) most_of[warp][lane / (kLanes * kKeys)] = most, weight_of[warp][lane / (kLanes * kKeys)] = weight;
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    Run<float, PER> own;
    own.set(sum[h]);
    *reinterpret_cast<Run<float, PER>*>(&sums[warp][h][lane * PER]) = own;
  }
  __syncthreads();
  cluster_wait();  // the others run, and can be written to
  const bool is_alone = cut.cluster == 1;
  if (threadIdx.x < max(32, HEADS * kWarps)) {
    const int h = threadIdx.x / kWarps % HEADS, w = threadIdx.x % kWarps;
    float larger = most_of[w][h];
#pragma unroll
    for (int offset = 1; offset < kWarps; offset *= 2) larger = fmaxf(larger, __shfl_xor_sync(~0u, larger, offset));
    const float factor = exp2f(most_of[w][h] - larger);
    float all = factor * weight_of[w][h];
#pragma unroll
    for (int offset = 1; offset < kWarps; offset *= 2) all += __shfl_xor_sync(~0u, all, offset);
    __syncwarp();
    if (threadIdx.x < HEADS * kWarps) {
      most_of[w][h] = factor;
      if (w < cut.cluster) give(&received_most[rank][h], w, larger, inbox, is_alone), give(&received_weight[rank][h], w, all, inbox, is_alone);
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < heads * e; at += blockDim.x) {
    const int h = at / e, l = at % e;
    float all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) all = fmaf(most_of[w][h], sums[w][h][l], all);
    give(&received[rank * slice + at % slice], at / slice, all, inbox, is_alone);
  }
  if (is_alone) __syncthreads();
  else inbox.wait();

  // Blocks of the cluster, and parts: [most, weight, sum] of each element of the slice.
  const int wide = (HEADS * e + cut.cluster - 1) / cut.cluster;  // a slice where all heads are there
  float* const all_parts = parts + ((i * gridDim.y + blockIdx.y) * cut.cluster + rank) * cut.most * 3 * wide;
  for (int at = threadIdx.x; at < due; at += blockDim.x) {
    const int h = (rank * slice + at) / e;
    float larger = kLeast, all = 0, total = 0;
    for (int c = 0; c < cut.cluster; ++c) larger = fmaxf(larger, received_most[c][h]);
    for (int c = 0; c < cut.cluster; ++c) {
      const float factor = exp2f(received_most[c][h] - larger);
      all = fmaf(factor, received_weight[c][h], all), total = fmaf(factor, received[c * slice + at], total);
    }
    if (used == 1) {
      out[rank * slice + at] = total / all;
    } else {
      float* own = all_parts + part * 3 * slice + at;
      own[0] = larger, own[slice] = all, own[2 * slice] = total;
    }
  }
  if (used == 1) return;
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicInc(done + (i * gridDim.y + blockIdx.y) * cut.cluster + rank, used - 1) == used - 1;  // 0 again after the last
    __threadfence();
  }
  __syncthreads();
  if (!is_last) return;
  for (int at = threadIdx.x; at < due; at += blockDim.x) {
    float larger = kLeast, all = 0, total = 0;
    for (int p = 0; p < used; ++p) larger = fmaxf(larger, __ldcg(all_parts + p * 3 * slice + at));
    for (int p = 0; p < used; ++p) {
      const float* one = all_parts + p * 3 * slice + at;
      const float factor = exp2f(__ldcg(one) - larger);
      all = fmaf(factor, __ldcg(one + slice), all), total = fmaf(factor, __ldcg(one + 2 * slice), total);
    }
    out[rank * slice + at] = total / all;
  }
}

template <class T, int PER, bool FULL, int HEADS>
void attend(const AttendCacheArgs& args) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream(), &capture));
  const int64_t each = args.heads / args.kv_heads, across = args.kv_heads * ((each + HEADS - 1) / HEADS), clusters = args.t * across;
  const int64_t reach = args.window > 0 ? std::min(args.window, args.capacity) : args.capacity;
  if (across > 65535) fail("%lld heads are more than a launch has room for", (long long)args.heads);
  constexpr int kBlocks = 128 * kHeld<T, PER, HEADS>;  // wanted, to fill a card
  Cut cut{1, 128, 1, args.t > kMates<PER>, false};
  if (card_overlaps()) {
    cut.share = kShare, cut.is_early = !cut.kept && capture == cudaStreamCaptureStatusActive;
    while (cut.cluster < kCluster && 2 * cut.cluster * clusters <= kBlocks) cut.cluster *= 2;
  }
  if (clusters * cut.cluster <= kCounters) cut.most = static_cast<int>(std::clamp<int64_t>(kBlocks / (clusters * cut.cluster), 1, 32));
  if (cut.kept) {
    const int64_t blocks = (args.t * args.kv_heads * args.e + kThreads - 1) / kThreads;
    check(launch(keep_kernel<T>, static_cast<unsigned>(blocks), kThreads, 0, stream(), card_overlaps(), args));
  }
  const int64_t splits = std::min<int64_t>(cut.most, (reach + cut.share - 1) / cut.share), room = (HEADS * args.e + cut.cluster - 1) / cut.cluster;
  const Scratch<float> parts(splits > 1 ? clusters * cut.cluster * cut.most * 3 * room : 1);
  const float* done = constant("attend_cache: parts that are done", [] { return std::vector<float>(kCounters); });
  const dim3 grid(static_cast<unsigned>(splits * cut.cluster), static_cast<unsigned>(across), static_cast<unsigned>(args.t));
  const auto go = [&](const auto&... values) {
    const auto kernel = attend_kernel<T, PER, FULL, HEADS>;
    return cut.cluster > 1 ? launch_clusters(kernel, grid, kWarps * 32, 0, stream(), true, static_cast<unsigned>(cut.cluster), values...)
                           : launch(kernel, grid, kWarps * 32, 0, stream(), card_overlaps(), values...);
  };
  check(go(args, cut, parts, reinterpret_cast<unsigned*>(const_cast<float*>(done))));
}

// Heads that read the same keys, together.
template <class T, int PER>
void attend(const AttendCacheArgs& args) {
  const int64_t each = args.heads / args.kv_heads;
  if (each == 1) return attend<T, PER, true, 1>(args);
  if (each == 2 || args.capacity <= kShare) return attend<T, PER, true, 2>(args);  // more blocks take less time there than fewer reads
  each <= 4 ? attend<T, PER, true, 4>(args) : attend<T, PER, true, 8>(args);
}

template <class T>
void run(const AttendCacheArgs& args) {
  if (args.e == 64) return attend<T, 2>(args);
  if (args.e == 128) return attend<T, 4>(args);
  if (args.e <= 128) return attend<T, 4, false, 1>(args);
  if (args.e <= 512) return attend<T, 16, false, 1>(args);
  fail("a head has %lld elements, and up to 512 are supported", (long long)args.e);
}

}  // namespace

void attend_cache(const AttendCacheArgs& args) {
  if (args.t == 0) return;
  if (args.t > 65535) fail("%lld rows are more than a launch has room for", (long long)args.t);
  args.bf16 ? run<uint16_t>(args) : run<float>(args);
}

}  // namespace ops
