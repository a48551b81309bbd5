#include "sample.h"

#include "../../core/cluster.cuh"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

// A row is a step of decoding, so as many threads as may be look at it, each at several elements ahead of what it does with them.
constexpr int kCluster = 8, kWide = 512, kAhead = 8, kBins = 256;
// Sums of a bin, by parts of 10 bits of what is added: 2²¹ of them fit into 32 bits, which shared memory adds up at once.
constexpr int kParts = 4, kPartBits = 10;
// The first bins are of equal width in z, the largest first, one a thread; members of one are compared with each other, one a
// thread. Where there are more, as in flat or strange rows, keys are looked at byte by byte.
constexpr int kSteps = kWide, kMembers = kWide;
constexpr float kDeepest = 32;  // log p below which tokens share the last bin

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
  union {
    uint32_t bins[kParts][kBins];
    uint32_t steps[kParts + 1][kSteps];  // the last: how many
    uint64_t members[kMembers];          // logit's key, then the inverse id
  } shared[2];
  uint32_t one[2][4];
  uint32_t count[2];
  // A block's own:
  uint64_t of_warps[kWide / 32];
  uint64_t found[3];
  uint64_t keys[kMembers], weights[kMembers];
};

// Where a sum over tokens, the likeliest first, passes a place: the token, and the sum of weights with it.
struct Passed {
  uint32_t id;
  uint64_t with;
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

  // Over all threads of all blocks; valid in each. Two at once, where there are two.
  template <class Op>
  __device__ uint64_t all(uint64_t value, Op op, uint64_t* second = nullptr) {
    tell(value, op, 0);
    if (second) tell(*second, op, 2);
    meet();
    value = heard(op, 0);
    if (second) *second = heard(op, 2);
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
      uint32_t(&bins)[kParts][kBins] = told_.shared[turn_].bins;
      for (int b = threadIdx.x; b < kParts * kBins; b += kWide) (&bins[0][0])[b] = 0;
      __syncthreads();
      each([&](float z, uint32_t j) {
        uint32_t mine;
        if (!key(z, j, mine) || (mine & mask) != known) return;
        add(bins, mine >> shift & 255, measure(z));
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

  // Sums of weights by steps of z; what thread i is told of step i: the sum before it and of it, the same of numbers, and the sum of all.
  struct Step {
    uint64_t before, weight, all;
    uint32_t count_before, count;
  };
  template <class Weight>
  __device__ Step steps(float most, float scale, Weight weight) {
    uint32_t(&sums)[kParts + 1][kSteps] = told_.shared[turn_].steps;
    for (int b = threadIdx.x; b < (kParts + 1) * kSteps; b += kWide) (&sums[0][0])[b] = 0;
    __syncthreads();
    each([&](float z, uint32_t) {
      const int step = step_of(z, most, scale);
      add(sums, step, weight(z));
      atomicAdd(&sums[kParts][step], 1);
    });
    meet();
    uint32_t words[kParts + 1][kCluster];
#pragma unroll
    for (int rank = 0; rank < kCluster; ++rank) {
#pragma unroll
      for (int part = 0; part <= kParts; ++part) words[part][rank] = rank < gridDim.x ? pull(&sums[part][threadIdx.x], rank) : 0;
    }
    Step mine{};
#pragma unroll
    for (int rank = 0; rank < kCluster; ++rank) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) mine.weight += static_cast<uint64_t>(words[part][rank]) << kPartBits * part;
      mine.count += words[kParts][rank];
    }
    mine.before = with_those_before(mine.weight) - mine.weight;
    mine.count_before = static_cast<uint32_t>(with_those_before(mine.count)) - mine.count;
    if (threadIdx.x == kSteps - 1) told_.found[0] = mine.before + mine.weight;
    __syncthreads();
    mine.all = told_.found[0];
    turn_ ^= 1;
    return mine;
  }

  // Where the sum of weights, or with COUNTS the number of tokens, passes `place`. False: there are too many to compare.
  template <bool COUNTS, class Weight>
  __device__ bool among(const Step& mine, float most, float scale, uint64_t place, Weight weight, Passed& passed) {
    const uint64_t before = COUNTS ? mine.count_before : mine.before, amount = COUNTS ? mine.count : mine.weight;
    __syncthreads();  // what was found before is read
    if (threadIdx.x == 0) told_.count[turn_] = 0;
    if (before <= place && place < before + amount)
      told_.found[0] = threadIdx.x, told_.found[1] = mine.before, told_.found[2] = static_cast<uint64_t>(mine.count) << 32 | mine.count_before;
    __syncthreads();
    const int step = static_cast<int>(told_.found[0]);
    const uint64_t weight_before = told_.found[1];
    const uint32_t count = told_.found[2] >> 32, count_before = static_cast<uint32_t>(told_.found[2]);
    if (count > kMembers) return false;
    each([&](float z, uint32_t j) {
      if (step_of(z, most, scale) == step) told_.shared[turn_].members[atomicAdd(&told_.count[turn_], 1)] = static_cast<uint64_t>(sample_key(z)) << 32 | ~j;
    });
    meet();
    unsigned at = threadIdx.x;
    uint64_t key = 0;
    for (unsigned rank = 0; rank < gridDim.x; ++rank) {
      const uint32_t there = pull(&told_.count[turn_], rank);
      if (at < there) {
        const auto* words = reinterpret_cast<const uint32_t*>(&told_.shared[turn_].members[at]);
        key = static_cast<uint64_t>(pull(words + 1, rank)) << 32 | pull(words, rank);
        at = ~0u;
      } else if (at != ~0u) {
        at -= there;
      }
    }
    const uint64_t own = threadIdx.x < count ? weight(sample_logit(static_cast<uint32_t>(key >> 32))) : 0;
    told_.keys[threadIdx.x] = key, told_.weights[threadIdx.x] = own;
    __syncthreads();
    uint64_t sum = weight_before;
    uint32_t numbers = count_before;
    for (unsigned i = 0; i < count; ++i) {
      if (told_.keys[i] > key) sum += told_.weights[i], ++numbers;
    }
    const bool here = threadIdx.x < count && (COUNTS ? numbers == place : sum <= place && place < sum + own);
    if (here) told_.found[0] = static_cast<uint32_t>(~key), told_.found[1] = sum + own;
    __syncthreads();
    passed = {static_cast<uint32_t>(told_.found[0]), told_.found[1]};
    turn_ ^= 1;
    return true;
  }

  // Nobody may leave while others read what he told.
  __device__ void end() { meet(); }

 private:
  __device__ static int step_of(float z, float most, float scale) { return static_cast<int>(fminf((most - z) * scale, kSteps - 1)); }

  template <int ROWS, int BINS>
  __device__ static void add(uint32_t (&bins)[ROWS][BINS], int bin, uint64_t amount) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const uint32_t bits = static_cast<uint32_t>(amount >> kPartBits * part) & (part < kParts - 1 ? (1 << kPartBits) - 1 : ~0u);
      if (bits) atomicAdd(&bins[part][bin], bits);
    }
  }

  template <class Op>
  __device__ void tell(uint64_t value, Op op, int place) {
    value = over_lanes(value, op);
    __syncthreads();
    if (threadIdx.x % 32 == 0) told_.of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    value = over_lanes(threadIdx.x < kWide / 32 ? told_.of_warps[threadIdx.x] : 0, op);
    if (threadIdx.x < 2) told_.one[turn_][place + threadIdx.x] = static_cast<uint32_t>(value >> 32 * threadIdx.x);
  }
  template <class Op>
  __device__ uint64_t heard(Op op, int place) const {
    uint64_t value = 0;
    for (unsigned rank = 0; rank < gridDim.x; ++rank)
      value = op(value, static_cast<uint64_t>(pull(&told_.one[turn_][place + 1], rank)) << 32 | pull(&told_.one[turn_][place], rank));
    return value;
  }

  // The sum over this thread and all before it of the block.
  __device__ uint64_t with_those_before(uint64_t sum) {
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t lower = __shfl_up_sync(~0u, sum, offset);
      if (threadIdx.x % 32 >= offset) sum += lower;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 31) told_.of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int warp = 0; warp < static_cast<int>(threadIdx.x / 32); ++warp) sum += told_.of_warps[warp];
    return sum;
  }

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
    const uint64_t with = before + with_those_before(sum);
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

__device__ uint32_t draw(Row& row, int64_t v, float most, float least, const Drawing& how) {
  const auto by_logit = [](float z, uint32_t, uint32_t& key) { return key = sample_key(z), true; };
  const auto one = [](float) { return uint64_t{1}; };
  const auto weight = [&](float z) { return sample_weight(z, most, how.temperature); };
  const float range = most - fmaxf(least, most - kDeepest * static_cast<float>(how.temperature));
  const float scale = range > 0 ? kSteps / range : 0;
  const Row::Step step = row.steps(most, scale, weight);
  uint64_t all = step.all, left = all, before = 0;
  Passed passed{};
  // Cuts are sums of what they leave: equal ones weigh the same, so which of them are left need not be known.
  if (how.k >= 1 && how.k < v) {
    const auto k = static_cast<uint64_t>(how.k);
    if (!row.among<true>(step, most, scale, k - 1, weight, passed)) {
      const uint32_t last = row.pass(24, k - 1, by_logit, one, before);
      uint64_t mine = 0;
      row.each([&](float z, uint32_t) { mine += sample_key(z) > last ? weight(z) : 0; });
      passed.with = row.all(mine, Sum{}) + (k - before) * weight(sample_logit(last));
    }
    all = left = passed.with;
  }
  if (how.least > 0) {
    uint64_t likely = 0;
    row.each([&](float z, uint32_t) {
      const uint64_t amount = weight(z);
      likely += static_cast<double>(amount) >= how.least * kSampleOne ? amount : 0;
    });
    left = min(left, max(row.all(likely, Sum{}), kSampleOne));
  }
  if (how.p < 1) {
    const uint64_t place = sample_enough(how.p, all) - 1;
    if (!row.among<false>(step, most, scale, place, weight, passed)) {
      const uint64_t each = weight(sample_logit(row.pass(24, place, by_logit, weight, before)));
      passed.with = before + ((place - before) / each + 1) * each;
    }
    left = min(left, passed.with);
  }
  const uint64_t place = sample_place(how.u, left);
  if (row.among<false>(step, most, scale, place, weight, passed)) return passed.id;
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
  const bool known = slot >= 0 && slot < args.s && sample_can(how);
  uint8_t* const seen = known && how.penalty != 1 ? args.seen + slot * args.v : nullptr;
  Row row(args, told, seen, how.penalty);
  row.meet();  // all blocks run, and can be read from
  constexpr uint64_t kNan = ~0ull;
  uint64_t best = 0, inverse = 0;  // of the least key
  row.each([&](float z, uint32_t j) {
    const uint32_t key = sample_key(z);
    best = max(best, isnan(z) ? kNan : static_cast<uint64_t>(key) << 32 | ~j);
    inverse = max(inverse, static_cast<uint64_t>(~key));
  });
  best = row.all(best, Most{}, how.temperature == 0 ? nullptr : &inverse);
  const float most = sample_logit(static_cast<uint32_t>(best >> 32));
  int32_t id = static_cast<int32_t>(~static_cast<uint32_t>(best));
  if (!known || best == kNan || !isfinite(most)) id = -1;
  else if (how.temperature != 0) id = static_cast<int32_t>(draw(row, args.v, most, sample_logit(~static_cast<uint32_t>(inverse)), how));
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
