#include "sample.h"

#include "../../core/cluster.cuh"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

// A row is a step of decoding, so as many threads as may be look at it, each at several elements ahead of what it does with them.
constexpr int kCluster = 8, kWide = 512, kAhead = 8, kBins = 256;
// Sums of a bin, by parts of 10 bits of what is added: 2²¹ of them fit into 32 bits, which shared memory adds up at once.
constexpr int kParts = 4, kPartBits = 10;

__device__ inline uint32_t pull(const uint32_t* here, unsigned rank) {
  uint32_t value = *here;
#if __CUDA_ARCH__ >= 900
  if (gridDim.x > 1) asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(place_at(here, rank)) : "memory");
#endif
  return value;
}

struct Most {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return max(a, b); }
};
struct Sum {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
template <class Op>
__device__ uint64_t over_lanes(uint64_t value, Op op) {
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(~0u, value, offset));
  return value;
}

// What blocks tell each other, two turns of it: who writes for a turn has met all others since they read what was there before.
struct Told {
  uint32_t bins[2][kParts][kBins];
  uint32_t one[2][2];
  uint64_t of_warps[kWide / 32];
  uint64_t found[2];  // byte, sum before it
};

class Row {
 public:
  __device__ Row(const SampleArgs& args, Told& told, const uint8_t* seen, double penalty)
      : x_(args.logits + blockIdx.y * args.v), seen_(seen), v_(args.v), penalty_(penalty), told_(told) {}

  __device__ void meet() {
    if (gridDim.x > 1) cluster_arrive(), cluster_wait();
    else __syncthreads();
  }

  // f(logit, id) for this thread's share.
  template <class F>
  __device__ void each(F f) const {
    const int64_t across = static_cast<int64_t>(gridDim.x) * kWide;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * kWide + threadIdx.x; first < v_; first += across * kAhead) {
      float values[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t j = first + i * across;
        values[i] = j < v_ ? x_[j] : 0;
        if (seen_ && j < v_ && seen_[j]) values[i] = sample_penalized(values[i], penalty_);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i * across < v_) f(values[i], static_cast<uint32_t>(first + i * across));
      }
    }
  }

  // Over all threads of all blocks; valid in each.
  template <class Op>
  __device__ uint64_t all(uint64_t value, Op op) {
    value = over_lanes(value, op);
    if (threadIdx.x % 32 == 0) told_.of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
      value = over_lanes(threadIdx.x < kWide / 32 ? told_.of_warps[threadIdx.x] : 0, op);
      if (threadIdx.x < 2) told_.one[turn_][threadIdx.x] = static_cast<uint32_t>(value >> 32 * threadIdx.x);
    }
    meet();
    value = 0;
    for (unsigned rank = 0; rank < gridDim.x; ++rank)
      value = op(value, static_cast<uint64_t>(pull(&told_.one[turn_][1], rank)) << 32 | pull(&told_.one[turn_][0], rank));
    turn_ ^= 1;
    return value;
  }

  // Where a sum over tokens, the largest key first, passes `place`: the key, and the sum before it. A byte at a time, from the
  // one at `shift`. key(logit, id, &key): whether the token counts; measure(logit): for how much.
  template <class Key, class Measure>
  __device__ uint32_t pass(int shift, uint64_t place, Key key, Measure measure, uint64_t& before) {
    uint32_t known = 0, mask = 0;
    before = 0;
    for (; shift >= 0; shift -= 8) {
      uint32_t(&bins)[kParts][kBins] = told_.bins[turn_];
      for (int b = threadIdx.x; b < kParts * kBins; b += kWide) (&bins[0][0])[b] = 0;
      __syncthreads();
      each([&](float z, uint32_t j) {
        uint32_t mine;
        if (!key(z, j, mine) || (mine & mask) != known) return;
        const uint64_t amount = measure(z);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const uint32_t bits = static_cast<uint32_t>(amount >> kPartBits * part) & (part < kParts - 1 ? (1 << kPartBits) - 1 : ~0u);
          if (bits) atomicAdd(&bins[part][mine >> shift & 255], bits);
        }
      });
      meet();
      choose(bins, place, before);
      known |= static_cast<uint32_t>(told_.found[0]) << shift;
      mask |= 255u << shift;
      before = told_.found[1];
      turn_ ^= 1;
    }
    return known;
  }

  // Nobody may leave while others read what he told.
  __device__ void end() { meet(); }

 private:
  // The byte in whose bin the sum passes `place`, and the sum before it; valid in every thread.
  __device__ void choose(const uint32_t (&bins)[kParts][kBins], uint64_t place, uint64_t before) {
    const int byte = kBins - 1 - static_cast<int>(threadIdx.x);
    uint64_t sum = 0;
    if (byte >= 0) {
      for (unsigned rank = 0; rank < gridDim.x; ++rank) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) sum += static_cast<uint64_t>(pull(&bins[part][byte], rank)) << kPartBits * part;
      }
    }
    uint64_t with = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t lower = __shfl_up_sync(~0u, with, offset);
      if (threadIdx.x % 32 >= offset) with += lower;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 31) told_.of_warps[threadIdx.x / 32] = with;
    __syncthreads();
    for (int warp = 0; warp < static_cast<int>(threadIdx.x / 32); ++warp) with += told_.of_warps[warp];
    with += before;
    if (byte >= 0 && with > place && with - sum <= place) told_.found[0] = byte, told_.found[1] = with - sum;
    __syncthreads();
  }

  const float* const x_;
  const uint8_t* const seen_;
  const int64_t v_;
  const double penalty_;
  Told& told_;
  int turn_ = 0;
};

__device__ uint32_t draw(Row& row, int64_t v, float most, const Drawing& how) {
  const auto by_logit = [](float z, uint32_t, uint32_t& key) { return key = sample_key(z), true; };
  const auto one = [](float) { return uint64_t{1}; };
  const auto weight = [&](float z) { return sample_weight(z, most, how.temperature); };
  uint64_t before = 0;
  // Cuts are sums of what they leave: equal ones weigh the same, so which of them are left need not be known.
  uint32_t last = 0;
  uint64_t of_last = 0;
  if (how.k >= 1 && how.k < v) {
    const auto k = static_cast<uint64_t>(how.k);
    last = row.pass(24, k - 1, by_logit, one, before);
    of_last = (k - before) * weight(sample_logit(last));
  }
  uint64_t mine = 0, likely = 0;
  row.each([&](float z, uint32_t) {
    const uint64_t amount = weight(z);
    if (last == 0 || sample_key(z) > last) mine += amount;
    if (static_cast<double>(amount) >= how.least * kSampleOne) likely += amount;
  });
  const uint64_t all = row.all(mine, Sum{}) + of_last;
  uint64_t left = all;
  if (how.least > 0) left = min(left, max(row.all(likely, Sum{}), kSampleOne));
  if (how.p < 1) {
    const uint64_t place = sample_enough(how.p, all) - 1;
    const uint64_t each = weight(sample_logit(row.pass(24, place, by_logit, weight, before)));
    left = min(left, before + ((place - before) / each + 1) * each);
  }
  const uint64_t place = sample_place(how.u, left);
  const uint32_t key = row.pass(24, place, by_logit, weight, before);
  const uint64_t at = (place - before) / weight(sample_logit(key));
  const auto by_id = [key](float z, uint32_t j, uint32_t& inverse) { return inverse = ~j & 0xffffffu, sample_key(z) == key; };
  return ~row.pass(16, at, by_id, one, before) & 0xffffffu;
}

// A cluster of blocks a row.
__global__ void __launch_bounds__(kWide) sample_kernel(const SampleArgs args) {
  wait_for_previous();
  let_next_begin();
  __shared__ Told told;
  const int64_t t = blockIdx.y;
  const Drawing how = reinterpret_cast<const Drawing*>(args.how)[t];
  const int64_t slot = args.slots[t];
  const bool known = slot >= 0 && slot < args.s;
  uint8_t* const seen = known && how.penalty != 1 ? args.seen + slot * args.v : nullptr;
  Row row(args, told, seen, how.penalty);
  row.meet();  // all blocks run, and can be read from
  constexpr uint64_t kNan = ~0ull;
  uint64_t best = 0;
  row.each([&](float z, uint32_t j) { best = max(best, isnan(z) ? kNan : static_cast<uint64_t>(sample_key(z)) << 32 | ~j); });
  best = row.all(best, Most{});
  const float most = sample_logit(static_cast<uint32_t>(best >> 32));
  int32_t id = static_cast<int32_t>(~static_cast<uint32_t>(best));
  if (!known || best == kNan || !isfinite(most)) id = -1;
  else if (how.temperature != 0) id = static_cast<int32_t>(draw(row, args.v, most, how));
  row.end();
  if (blockIdx.x > 0 || threadIdx.x > 0) return;
  args.out[t] = id;
  if (seen && id >= 0) seen[id] = 1;
}

}  // namespace

void sample(const SampleArgs& args) {
  if (args.t == 0) return;
  const dim3 grid(card_overlaps() && args.v > kWide ? kCluster : 1, static_cast<unsigned>(args.t));
  check(grid.x > 1 ? launch_clusters(sample_kernel, grid, kWide, 0, stream(), true, kCluster, args)
                   : launch(sample_kernel, grid, kWide, 0, stream(), card_overlaps(), args));
}

}  // namespace ops
