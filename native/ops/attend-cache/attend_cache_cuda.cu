#include "attend_cache.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "../../core/overlap.cuh"

namespace ops {

namespace {

constexpr int kWarps = 4;
constexpr int kKeys = 4;     // that a warp has under way at once
constexpr int kSplits = 32;  // the most parts that the keys of a row and head are cut into
constexpr int kBlocks = 512;  // wanted, to fill a card. A constant, not the card's size: every card adds in the same order

// Rotation and keeping; counts how many blocks of a row and head are done with, from 0.
template <class T>
__global__ void __launch_bounds__(kThreads) keep_kernel(const AttendCacheArgs args, float* turned, int* done) {
  wait_for_previous();
  let_next_begin();
  const int64_t half = args.e / 2, q_pairs = args.heads * half, kv_pairs = args.kv_heads * half, across = q_pairs + kv_pairs;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= args.t * across) return;
  const int64_t i = at / across, pair = at % across;
  const int slot = args.slots[i], position = args.positions[i];
  if (pair < args.heads) done[i * args.heads + pair] = 0;
  if (slot < 0 || slot >= args.count || position < 0 || position >= args.capacity) return;
  const int64_t p = pair < q_pairs ? pair : pair - q_pairs, l = p % half, low = p / half * args.e + l;
  const float c = args.cos[position * half + l], s = args.sin[position * half + l];
  const float* from = pair < q_pairs ? args.q + i * args.heads * args.e + low : args.k + i * args.kv_heads * args.e + low;
  const float a = from[0] * c - from[half] * s, b = from[half] * c + from[0] * s;
  if (pair < q_pairs) {
    turned[i * args.heads * args.e + low] = a, turned[i * args.heads * args.e + low + half] = b;
    return;
  }
  const int64_t place = (slot * args.capacity + position) * args.kv_heads * args.e + low;
  const float* v = args.v + i * args.kv_heads * args.e + low;
  T* keys = reinterpret_cast<T*>(args.keys) + place;
  T* values = reinterpret_cast<T*>(args.values) + place;
  narrow(a, keys[0]), narrow(b, keys[half]), narrow(v[0], values[0]), narrow(v[half], values[half]);
}

// PER neighbouring elements of a head; FULL: 32 lanes of them are the head, and a lane's are one access.
template <int PER, bool FULL, class T>
__device__ void load(const T* head, int lane, int64_t e, float (&to)[PER]) {
  if constexpr (FULL && PER > 1) {
    struct alignas(sizeof(T) * PER > 16 ? 16 : sizeof(T) * PER) Run {
      T x[PER];
    };
    const Run run = *reinterpret_cast<const Run*>(head + lane * PER);
#pragma unroll
    for (int l = 0; l < PER; ++l) to[l] = widen(run.x[l]);
  } else {
#pragma unroll
    for (int l = 0; l < PER; ++l) to[l] = lane * PER + l < e ? widen(head[lane * PER + l]) : 0;
  }
}

// What a softmax in the making is: its largest score, Σ exp(score − most), and Σ exp(score − most)·v.
template <int PER>
struct Sum {
  float most = -3.4e38f, weight = 0, v[PER] = {};
  __device__ void add(float other_most, float other_weight, const float (&other)[PER]) {
    const float larger = fmaxf(most, other_most), mine = expf(most - larger), its = expf(other_most - larger);
    most = larger, weight = fmaf(weight, mine, other_weight * its);
#pragma unroll
    for (int l = 0; l < PER; ++l) v[l] = fmaf(v[l], mine, other[l] * its);
  }
};

// A block for each part of the keys of a row and head, a warp for every kWarps-th run of kKeys of them, its lanes along the
// head. The block that is done last adds the parts up, in their order.
template <class T, int PER, bool FULL>
__global__ void __launch_bounds__(kWarps * 32) attend_kernel(const AttendCacheArgs args, const float* turned, float* parts, int* done) {
  wait_for_previous();
  let_next_begin();
  __shared__ float shared[kWarps][2 + 32 * PER];
  __shared__ bool is_last;
  const int64_t head = blockIdx.y, i = blockIdx.z, e = args.e, at = i * args.heads + head, stride = args.kv_heads * e;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, splits = gridDim.x;
  const int slot = args.slots[i], position = args.positions[i];
  float* out = args.out + at * e;
  if (slot < 0 || slot >= args.count || position < 0 || position >= args.capacity) {
    for (int64_t l = threadIdx.x; l < e; l += blockDim.x) out[l] = __uint_as_float(0x7fffffff);
    return;
  }
  const int64_t all_end = position + 1, all_begin = args.window > 0 && all_end > args.window ? all_end - args.window : 0;
  const int64_t part = (all_end - all_begin + splits - 1) / splits;
  const int64_t begin = all_begin + blockIdx.x * part, end = min(begin + part, all_end);
  const int64_t first = slot * args.capacity * stride + head / (args.heads / args.kv_heads) * e;
  const T* keys = reinterpret_cast<const T*>(args.keys) + first;
  const T* values = reinterpret_cast<const T*>(args.values) + first;
  float q[PER];
  load<PER, FULL>(turned + at * e, lane, e, q);

  Sum<PER> sum;
  for (int64_t j = begin + warp * kKeys; j < end; j += kWarps * kKeys) {
    float k[kKeys][PER], v[kKeys][PER], score[kKeys];
#pragma unroll
    for (int u = 0; u < kKeys; ++u) {
      const int64_t row = min(j + u, end - 1) * stride;
      load<PER, FULL>(keys + row, lane, e, k[u]);
      load<PER, FULL>(values + row, lane, e, v[u]);
    }
    float most = sum.most;
#pragma unroll
    for (int u = 0; u < kKeys; ++u) {
      score[u] = 0;
#pragma unroll
      for (int l = 0; l < PER; ++l) score[u] = fmaf(q[l], k[u][l], score[u]);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
#pragma unroll
      for (int u = 0; u < kKeys; ++u) score[u] += __shfl_xor_sync(~0u, score[u], offset);
    }
#pragma unroll
    for (int u = 0; u < kKeys; ++u) {
      score[u] = j + u < end ? score[u] * args.scale : -INFINITY;
      most = fmaxf(most, score[u]);
    }
    const float before = expf(sum.most - most);
    sum.most = most, sum.weight *= before;
#pragma unroll
    for (int l = 0; l < PER; ++l) sum.v[l] *= before;
#pragma unroll
    for (int u = 0; u < kKeys; ++u) {
      const float weight = expf(score[u] - most);
      sum.weight += weight;
#pragma unroll
      for (int l = 0; l < PER; ++l) sum.v[l] = fmaf(weight, v[u][l], sum.v[l]);
    }
  }

  const auto put = [&](float* into, int thread) {
    if (thread == 0) into[0] = sum.most, into[1] = sum.weight;
#pragma unroll
    for (int l = 0; l < PER; ++l) into[2 + thread * PER + l] = sum.v[l];
  };
  const auto add = [&](const float* from) {
    float v[PER];
#pragma unroll
    for (int l = 0; l < PER; ++l) v[l] = from[2 + lane * PER + l];
    sum.add(from[0], from[1], v);
  };
  put(shared[warp], lane);
  __syncthreads();
  if (warp > 0) return;
  for (int w = 1; w < kWarps; ++w) add(shared[w]);
  if (splits > 1) {
    constexpr int kPart = 2 + 32 * PER;
    float* all = parts + at * splits * kPart;
    put(all + blockIdx.x * kPart, lane);
    __threadfence();
    __syncwarp();
    if (lane == 0) is_last = atomicAdd(done + at, 1) == splits - 1;
    __syncwarp();
    if (!is_last) return;
    __threadfence();
    sum = {};
    for (int s = 0; s < splits; ++s) add(all + s * kPart);
  }
#pragma unroll
  for (int l = 0; l < PER; ++l) {
    if (lane * PER + l < e) out[lane * PER + l] = sum.v[l] / sum.weight;
  }
}

template <class T, int PER, bool FULL>
void attend(const AttendCacheArgs& args, const float* turned, int* done) {
  const int64_t reach = args.window > 0 ? std::min(args.window, args.capacity) : args.capacity;
  const int64_t splits = std::clamp<int64_t>(kBlocks / (args.t * args.heads), 1, std::min<int64_t>(kSplits, (reach + 63) / 64));
  const Scratch<float> parts(splits > 1 ? args.t * args.heads * splits * (2 + 32 * PER) : 1);
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(args.heads), static_cast<unsigned>(args.t));
  check(launch(attend_kernel<T, PER, FULL>, grid, kWarps * 32, 0, stream(), card_overlaps(), args, turned, parts, done));
}

template <class T, int PER = 1>
void attend(const AttendCacheArgs& args, const float* turned, int* done) {
  if (args.e == 32 * PER) return attend<T, PER, true>(args, turned, done);
  if (args.e < 32 * PER) return attend<T, PER, false>(args, turned, done);
  if constexpr (PER < 16) return attend<T, 2 * PER>(args, turned, done);
  fail("a head has %lld elements, and up to 512 are supported", (long long)args.e);
}

template <class T>
void run(const AttendCacheArgs& args) {
  const Scratch<float> turned(args.t * args.heads * args.e);
  const Scratch<int> done(args.t * args.heads);
  const int64_t pairs = args.t * (args.heads + args.kv_heads) * (args.e / 2);
  const unsigned blocks = static_cast<unsigned>((pairs + kThreads - 1) / kThreads);
  check(launch(keep_kernel<T>, blocks, kThreads, 0, stream(), card_overlaps(), args, turned, done));
  attend<T>(args, turned, done);
}

}  // namespace

void attend_cache(const AttendCacheArgs& args) {
  if (args.t == 0) return;
  if (args.t > 65535 || args.heads > 65535) fail("%lld rows of %lld heads are more than a launch has room for", (long long)args.t, (long long)args.heads);
  args.bf16 ? run<uint16_t>(args) : run<float>(args);
}

}  // namespace ops
