// The two passes, over groups of sequences; and the search for any machine.
#include "trellis_encode.h"

#include <cmath>
#include <cstdlib>
#include <memory>

#include "../../core/error.h"
#include "../../core/parallel.h"
#include "fine_kernel.h"
#include "lanes_portable.h"
#include "search_kernel.h"

namespace ops {
namespace trellis {

const Search* portable_searches() {
  static constexpr Search list[] = {search<Portable8>, {}};
  return list;
}

FinePass portable_fine() { return fine_pass; }

namespace {

const Search* searches() {
#ifdef __x86_64__
  if (context().level == Level::avx512) return avx512_searches();
  if (context().level == Level::avx2) return avx2_searches();
#endif
  return portable_searches();
}

FinePass fine_search() {
#ifdef __x86_64__
  if (context().level == Level::avx512) return avx512_fine();
  if (context().level == Level::avx2) return avx2_fine();
#endif
  return portable_fine();
}

// The narrowest vectors that hold `count` sequences, or the widest. Costs of wide codes fit no cache but in narrow ones.
const Search& search_for(const Code& code, int64_t count) {
  const Search* found = searches();
  while (found[1].lanes && (found[1].lanes >= count || code.wide())) ++found;
  return *found;
}

// Memory that a thread keeps for its next search.
class Scratch {
 public:
  char* get(size_t bytes) {
    if (bytes > size_) {
      size_ = 0;
      memory_.reset(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
      if (!memory_) fail("no memory for the trellis search: %zu MiB a thread", bytes >> 20);
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

// What a weight counts as. NaN too counts as the limit.
double limited(double z, double limit) { return z < -limit ? -limit : z < limit ? z : limit; }

// Fixed point of one step's weights: 2·x as int16, two by two (x: words of them, `lanes` apart), and |x|² less
// (|x| - radius)² where x lies outside all values.
void aim(const TrellisEncodeArgs& a, const float* z, int32_t* x, size_t lanes, int32_t& rest) {
  int32_t parts[4] = {0, 0, 0, 0};
  double square = 0;
  for (int64_t v = 0; v < a.V; ++v) {
    const double value = limited(z[v], a.limit);
    parts[v] = int32_t(std::lrint(value * a.target));
    square += value * value;
  }
  const double outside = std::max(0.0, std::sqrt(square) - a.radius);
  for (int64_t v = 0; v < a.V; v += 2) x[v / 2 * int64_t(lanes)] = int32_t(uint32_t(parts[v]) & 0xffff) | int32_t(uint32_t(parts[v + 1]) << 16);
  rest = int32_t((square - outside * outside) * a.unit);
}

// Sequences [begin, begin + count) of the call; count ≤ lanes. Idle lanes repeat the last sequence.
void encode(const TrellisEncodeArgs& a, const Code& code, const Search& search, int64_t begin, int count) {
  const size_t lanes = size_t(search.lanes), steps = size_t(code.steps), words = size_t(code.words), rests = steps * lanes * sizeof(int32_t);
  const size_t costs_at = (words + 1) * rests, states_at = costs_at + (search.scratch(code) + 63) / 64 * 64;
  thread_local Scratch scratch;
  char* memory = scratch.get(states_at + steps * lanes * sizeof(uint16_t));
  int32_t* rest = reinterpret_cast<int32_t*>(memory);
  int32_t* x = reinterpret_cast<int32_t*>(memory + rests);
  void* costs = memory + costs_at;
  uint16_t* states = reinterpret_cast<uint16_t*>(memory + states_at);
  const int64_t weights = a.Tx * a.Ty;
  for (size_t lane = 0; lane < lanes; ++lane) {
    const float* z = a.z + (begin + std::min<int64_t>(int64_t(lane), count - 1)) * weights;
    const size_t slot = size_t(search.slot(int(lane)));
    for (size_t t = 0; t < steps; ++t) aim(a, z + t * size_t(a.V), x + t * words * lanes + slot, lanes, rest[t * lanes + slot]);
  }

  // Turned right by half: step `half` of the pass is step 0 of the sequence.
  const int half = code.steps / 2;
  uint16_t overlap[64];
  search.pass(code, {x, rest}, code.steps - half, nullptr, nullptr, half, costs, states);
  for (size_t lane = 0; lane < lanes; ++lane) overlap[lane] = uint16_t(states[lane * steps + size_t(half)] >> code.KV);
  search.pass(code, {x, rest}, 0, overlap, overlap, 0, costs, states);

  for (int lane = 0; lane < count; ++lane) {
    const uint16_t* path = states + size_t(lane) * steps;
    std::copy(path, path + steps, a.codes + size_t(begin + lane) * steps);
    float* values = a.values + (begin + lane) * weights;
    for (size_t t = 0; t < steps; ++t) std::copy_n(a.table + path[t] * a.V, a.V, values + t * size_t(a.V));
  }
}

// One sequence in f32.
void encode_fine(const TrellisEncodeArgs& a, FinePass pass, int64_t sequence) {
  const size_t steps = size_t(a.Tx * a.Ty), groups = size_t{1} << (a.L - a.KV);
  thread_local Scratch scratch;
  float* const x = reinterpret_cast<float*>(scratch.get(steps * (sizeof(float) + sizeof(uint16_t)) + (steps + 1) * groups * sizeof(float)));
  float* const costs = x + steps;
  uint16_t* const states = reinterpret_cast<uint16_t*>(costs + (steps + 1) * groups);
  const float* const z = a.z + sequence * int64_t(steps);
  for (size_t t = 0; t < steps; ++t) x[t] = float(limited(z[t], a.limit));
  const Fine code{int(a.L), int(a.KV), int(steps), a.table, x};
  const int half = code.steps / 2;
  pass(code, code.steps - half, -1, -1, costs, states);
  const int overlap = states[half] >> code.KV;
  pass(code, 0, overlap, overlap, costs, states);
  std::copy_n(states, steps, a.codes + sequence * int64_t(steps));
  for (size_t t = 0; t < steps; ++t) a.values[sequence * int64_t(steps) + int64_t(t)] = a.table[states[t]];
}

}  // namespace
}  // namespace trellis

void trellis_encode(const TrellisEncodeArgs& a) {
  if (a.bins == 0) {
    parallel_for(a.m / a.Tx, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) trellis::encode_fine(a, trellis::fine_search(), i);
    });
    return;
  }
  const trellis::Code code{int(a.L), int(a.KV), int(a.Tx * a.Ty / a.V), int(a.bins), a.pairs, a.norms, a.order, int(a.shift),
                           int(a.V + 1) / 2, a.symmetric};
  const int64_t sequences = a.m / a.Tx;
  const int threads = context().pool ? context().pool->threads() : 1;
  // As many lanes as leave no thread without work.
  const trellis::Search& search = trellis::search_for(code, (sequences + threads - 1) / threads);
  parallel_for(sequences, search.lanes, [&](int64_t begin, int64_t end) {
    const int count = int(end - begin);
    trellis::encode(a, code, trellis::search_for(code, std::min<int64_t>(count, search.lanes)), begin, count);
  });
}

}  // namespace ops
