// The search for any vector type U of 16-bit lanes; included by one translation unit per instruction set.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "search.h"

namespace ops::trellis {
namespace {

// Steps between takings-off of the least cost. Sums must not saturate in between: at high rates a weight in the tail costs
// a good part of the range; at KV ≤ 2 it does not, and the takings-off cost a tenth of the time there.
constexpr int rebase_every(int KV) { return KV <= 2 ? 4 : 2; }

inline uint32_t rotate_right(uint32_t x, int by, int width) {
  return by == 0 ? x : ((x >> by) | (x << (width - by))) & ((1u << width) - 1);
}

// Where costs lie when a step overwrites the one before. The predecessors of the groups q·2^KV + i are the groups
// j·2^(W-KV) + q (W = L-KV bits), and the 2^KV outputs of one q take the places of its 2^KV inputs: so group k of step t
// lies at k rotated right by t·KV of its W bits. Butterflies are visited in the order of addresses.
struct Places {
  int width, KV, turn, field;  // j's bits start at bit `field`, and may wrap around
  Places(const Code& code, int t)
      : width(code.width()), KV(code.KV), turn(int(int64_t(t) * KV % width)), field((2 * width - KV - turn) % width) {}
  uint32_t of(uint32_t group) const { return rotate_right(group, turn, width); }
  uint32_t base(uint32_t r) const {  // first place of the r-th butterfly
    if (field + KV > width) return r << (field + KV - width);
    const uint32_t low = (1u << field) - 1;
    return (r & low) | (r & ~low) << KV;
  }
  uint32_t rank(uint32_t base) const {  // base's inverse
    if (field + KV > width) return base >> (field + KV - width);
    const uint32_t low = (1u << field) - 1;
    return (base & low) | (base >> KV & ~low);
  }
  uint32_t q(uint32_t base) const { return rotate_right(base, (width - turn) % width, width); }
};

template <class U, bool Wide>
inline typename U::T cost_of(const uint16_t* costs, uint16_t order) {
  constexpr size_t bytes = U::lanes * 2 / (Wide ? 1 : 8);
  return U::load(reinterpret_cast<const uint16_t*>(reinterpret_cast<const char*>(costs) + order * bytes));
}

// From here on a cost grows 16 times slower: far values are hardly ever taken, but must not look all the same to a weight
// far out in the tail. Below it costs are exact to a quantum.
constexpr int knee = 0x8000, slower = 4;

// What each bin costs at one step. The tag's bits stay 0.
template <class U, int words>
void branch_costs(const Code& code, const int32_t* x, const int32_t* rest, uint16_t* costs) {
  constexpr int half = U::lanes / 2;
  const auto x0 = U::load32(x), x1 = U::load32(x + half), r0 = U::load32(rest), r1 = U::load32(rest + half);
  const auto y0 = U::load32(x + (words - 1) * U::lanes), y1 = U::load32(x + (words - 1) * U::lanes + half);
  const auto keep = U::set(~((1 << code.tag()) - 1)), bend = U::set(knee);
  for (int bin = 0; bin < code.bins; ++bin) {
    auto a = U::error(x0, r0, code.pairs[bin * words], code.norms[bin]), b = U::error(x1, r1, code.pairs[bin * words], code.norms[bin]);
    if constexpr (words == 2) a = U::error(y0, a, code.pairs[bin * 2 + 1], 0), b = U::error(y1, b, code.pairs[bin * 2 + 1], 0);
    const auto near = U::narrow(U::shift_right(a, code.shift), U::shift_right(b, code.shift));
    const auto far = U::narrow(U::shift_right(a, code.shift + slower), U::shift_right(b, code.shift + slower));
    U::store(costs + size_t(bin) * U::lanes, U::both(U::min(near, U::add(far, bend)), keep));
  }
}

// The same for one bin and one lane, of `lanes`.
inline uint32_t branch_cost(const Code& code, int bin, const int32_t* x, int lanes, int32_t rest) {
  int32_t error = rest + code.norms[bin];
  for (int i = 0; i < code.words; ++i) {
    const int32_t pair = code.pairs[bin * code.words + i], target = x[i * lanes];
    error -= int16_t(target) * int16_t(pair) + (target >> 16) * (pair >> 16);
  }
  const int32_t near = std::clamp(error >> code.shift, 0, 0xffff), far = std::clamp(error >> (code.shift + slower), 0, 0xffff);
  return uint32_t(std::min({near, far + knee, 0xffff})) & ~((1u << code.tag()) - 1);
}

// Four of the order by one load: loads are what a state has most of.
struct FourBins {
  uint64_t bins;
  explicit FourBins(const uint16_t* order) { std::memcpy(&bins, order, sizeof(bins)); }
  uint16_t operator[](int i) const { return uint16_t(bins >> 16 * i); }
};

// min over j of in[j] + cost, two chains of minima.
template <class U, int R, bool Wide>
inline typename U::T best(const typename U::T* in, const uint16_t* costs, const uint16_t* order) {
  if constexpr (R < 4) {
    return U::min(U::add(in[0], cost_of<U, Wide>(costs, order[0])), U::add(in[1], cost_of<U, Wide>(costs, order[1])));
  } else {
    typename U::T least[2];
#pragma GCC unroll 4
    for (int from = 0; from < R; from += 4) {
      const FourBins bins(order + from);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const auto cost = U::add(in[from + i], cost_of<U, Wide>(costs, bins[i]));
        least[i % 2] = from + i < 2 ? cost : U::min(least[i % 2], cost);
      }
    }
    return U::min(least[0], least[1]);
  }
}

// What a step is given besides the costs before.
template <class U>
struct Step {
  const Code& code;
  int t;
  const uint16_t* costs;  // of the bins
  typename U::T sub;      // taken off the costs before
  typename U::T least;    // out: least cost after
};

// Where the least cost of group p lies when only the lower half of the groups is kept: p and its complement cost the same.
inline size_t lower(size_t p, size_t groups) { return p < groups / 2 ? p : groups - 1 - p; }

// One step whose costs carry j. Back-pointers go to `words`, 16 / tag groups in one, the first lowest. In place, in order of
// addresses; or, if Half, the lower half of the groups in their own order, from g to out.
template <class U, int KV, bool Wide, bool Sub, bool Track, bool Half>
void step_tagged(Step<U>& step, uint16_t* g, uint16_t* out, uint16_t* words) {
  using T = typename U::T;
  constexpr int R = 1 << KV, tag = KV == 3 ? 4 : KV, per_word = 16 / tag;
  constexpr int turns = R < per_word ? per_word / R : 1, piece = R < per_word ? R : per_word;
  const Code& code = step.code;
  const uint16_t* const costs = step.costs;
  const Places places(code, step.t);
  size_t place[R];
  for (int j = 0; j < R; ++j) place[j] = Half ? size_t(j) * U::lanes : size_t{places.of(uint32_t(j) << (code.width() - KV))} * U::lanes;
  const size_t groups = size_t(code.groups());
  const uint32_t count = uint32_t(groups >> KV) / (Half ? 2 : 1);
  const T sub = step.sub;
  T least = U::set(0xffff);
  for (uint32_t r = 0; r < count; r += turns) {
    T word = U::set(0);
#pragma GCC unroll 8
    for (int turn = 0; turn < turns; ++turn) {
      const uint32_t base = Half ? (r + turn) << KV : places.base(r + turn), q = Half ? r + turn : places.q(base);
      const uint16_t* order = code.order + (size_t{q} << 2 * KV);
      uint16_t* const at = (Half ? out : g) + size_t{base} * U::lanes;
      T in[R];
#pragma GCC unroll 16
      for (int j = 0; j < R; ++j) {
        T value = U::load(Half ? g + lower((size_t(j) * groups >> KV) + q, groups) * U::lanes : at + place[j]);
        if constexpr (Sub) value = U::sub(value, sub);
        in[j] = U::select(U::set((1 << tag) - 1), U::set(j), value);
      }
#pragma GCC unroll 1
      for (int i = 0; i < R; i += piece) {
#pragma GCC unroll 16
        for (int n = 0; n < piece; ++n, order += R) {
          const T cost = best<U, R, Wide>(in, costs, order);
          if constexpr (Track) least = U::min(least, cost);
          U::store(at + place[i + n], cost);
          const int bit = (turn * R + n) * tag;
          word = bit == 0 ? cost : U::select(U::set((1 << bit) - 1), word, U::shift_left(cost, bit));
        }
        if (turn == turns - 1) U::stream(words, word), words += U::lanes;
      }
    }
  }
  step.least = least;
}

// One step from g to out, for many branches a group or few groups. j in chunks of C: the tag says which chunk. Half: g and
// out have the lower half of the groups.
template <class U, int KV, bool Wide, bool Sub, bool Track, bool Half>
void step_dense(Step<U>& step, const uint16_t* g, uint16_t* out) {
  using T = typename U::T;
  constexpr int R = 1 << KV, C = R < 16 ? R : 16;
  const Code& code = step.code;
  const uint32_t groups = uint32_t(code.groups()), outputs = std::min<uint32_t>(R, groups), made = groups / (Half ? 2 : 1);
  const uint32_t count = std::min(outputs, made);
  T least = U::set(0xffff);
  for (uint32_t q = 0; q * outputs < made; ++q, out += size_t{count} * U::lanes) {
    for (int chunk = 0; chunk < R / C; ++chunk) {
      const uint16_t* order = code.order + (size_t{q} * (R / C) + size_t(chunk)) * outputs * C;
      T in[C];
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        const size_t p = (size_t(chunk * C + j) * groups >> KV) + q;
        T value = U::load(g + (Half ? lower(p, groups) : p) * U::lanes);
        if constexpr (Sub) value = U::sub(value, step.sub);
        in[j] = U::select(U::set(15), U::set(chunk), value);
      }
      for (uint32_t i = 0; i < count; ++i, order += C) {
        T cost = best<U, C, Wide>(in, step.costs, order);
        if (chunk > 0) cost = U::min(cost, U::load(out + size_t{i} * U::lanes));
        U::store(out + size_t{i} * U::lanes, cost);
        if constexpr (Track) least = U::min(least, cost);
      }
    }
  }
  step.least = least;
}

// Memory of one pass, in this order: costs of the bins, costs of the groups (in place) or of all steps (dense), words.
template <class U>
struct Memory {
  size_t costs, words, history;  // 16-bit elements
  explicit Memory(const Code& code)
      : costs(size_t(code.bins) * U::lanes),
        words(code.in_place() ? size_t(code.groups()) * U::lanes / (16 / code.tag()) : size_t(code.groups()) * U::lanes),
        history(code.in_place() ? size_t(code.groups()) * U::lanes + words * code.steps : words * (code.steps + 1)) {}
};

template <class U>
size_t scratch(const Code& code) {
  const Memory<U> memory(code);
  return (memory.costs + memory.history) * sizeof(uint16_t);
}

template <class U, int KV, bool Wide>
struct Pass {
  using T = typename U::T;
  const Code& code;
  const Targets& targets;
  const int first;
  uint16_t* const costs;
  uint16_t* const g;      // in place: the costs; dense: the costs before step 0, then those after each step
  const size_t words;     // elements of a step's history
  const bool in_place;
  const bool half;        // nothing but the targets tells groups apart: the lower half of them stands for all

  Pass(const Code& code, const Targets& targets, int first, bool anywhere, void* scratch)
      : code(code), targets(targets), first(first), costs(static_cast<uint16_t*>(scratch)),
        g(costs + Memory<U>(code).costs), words(Memory<U>(code).words), in_place(code.in_place()),
        half(!Wide && anywhere && code.symmetric) {}

  int row(int t) const { return (first + t) % code.steps; }
  uint16_t* history(int t) const { return in_place ? g + size_t(code.groups()) * U::lanes + words * t : g + words * (t + 1); }

  // In place: the costs before step t; of halves there are two, which take turns.
  uint16_t* current(int t) const { return half && t % 2 ? g + size_t(code.groups()) / 2 * U::lanes : g; }

  template <bool Sub, bool Track, bool Half>
  void step(Step<U>& s) const {
    if constexpr (KV <= 4) {
      if (in_place) return step_tagged<U, KV, Wide, Sub, Track, Half>(s, current(s.t), current(s.t + 1), history(s.t));
    }
    step_dense<U, KV, Wide, Sub, Track, Half>(s, history(s.t - 1), history(s.t));
  }
  template <bool Sub, bool Track>
  void step(Step<U>& s) const {
    if constexpr (!Wide) {
      if (half) return step<Sub, Track, true>(s);
    }
    step<Sub, Track, false>(s);
  }

  void forward(const uint16_t* start) const {
    const int64_t groups = code.groups();
    for (int64_t i = 0; i < groups * U::lanes; ++i) g[i] = start ? 0xffff : 0;
    if (start) for (int lane = 0; lane < U::lanes; ++lane) g[size_t{start[lane]} * U::lanes + lane] = 0;
    Step<U> s{code, 0, costs, U::set(0), U::set(0)};
    for (; s.t < code.steps; ++s.t) {
      const size_t at = size_t(row(s.t)) * U::lanes;
      if (code.words == 2) branch_costs<U, 2>(code, targets.x + 2 * at, targets.rest + at, costs);
      else branch_costs<U, 1>(code, targets.x + at, targets.rest + at, costs);
      constexpr int every = rebase_every(KV);
      const bool sub = s.t > 0 && s.t % every == 0, track = s.t % every == every - 1;
      if (sub) s.sub = U::both(s.least, U::set(~15));
      if (sub) step<true, false>(s);
      else if (track) step<false, true>(s);
      else step<false, false>(s);
    }
    U::fence();
  }

  // The best group after the last step; of equally good ones the first.
  void best_end(uint16_t* end) const {
    const T tags = U::set((1 << code.tag()) - 1);
    T least = U::set(0xffff), group = U::set(0);
    const uint16_t* const last = in_place ? current(code.steps) : history(code.steps - 1);
    for (uint32_t k = 0; k < code.groups() / (half ? 2 : 1); ++k) {
      const uint32_t place = in_place && !half ? Places(code, code.steps).of(k) : k;
      const T cost = U::select(tags, U::set(0), U::load(last + size_t{place} * U::lanes));
      group = U::choose_less(cost, least, U::set(int(k)), group);
      least = U::min(least, cost);
    }
    alignas(64) uint16_t lanes[U::lanes];
    U::store(lanes, group);
    std::copy(lanes, lanes + U::lanes, end);
  }

  // The state of step t that leads to group k at least cost, for one lane.
  uint32_t state(int t, uint32_t k, int lane) const {
    const uint32_t groups = uint32_t(code.groups());
    if (half && k >= groups / 2) return (1u << code.L) - 1 - state(t, groups - 1 - k, lane);
    if (in_place) {
      const Places places(code, t);
      const uint32_t r = half ? k >> KV : places.rank(places.of(k >> KV));
      const uint32_t bit = (((r << KV) | (k & ((1u << KV) - 1))) * code.tag());
      const uint32_t j = history(t)[size_t{bit >> 4} * U::lanes + lane] >> (bit & 15) & ((1u << KV) - 1);
      return j * groups + k;
    }
    constexpr uint32_t R = 1u << KV, C = R < 16 ? R : 16;
    const uint32_t outputs = std::min(R, groups), q = k / outputs;
    const uint32_t chunk = history(t)[size_t{k} * U::lanes + lane] & (R / C - 1);  // a saturated cost names any
    const uint16_t* order = code.order + ((size_t{q} * (R / C) + chunk) * outputs + k % outputs) * C;
    const size_t slot = size_t(U::slot(lane)), at = size_t(row(t)) * U::lanes + slot;
    const int32_t* x = targets.x + size_t(row(t)) * code.words * U::lanes + slot;
    uint32_t least = ~0u, found = chunk * C;
    for (uint32_t j = chunk * C; j < (chunk + 1) * C; ++j) {
      const int bin = order[j - chunk * C] / (Wide ? 1 : 8);
      const uint32_t cost = branch_cost(code, bin, x, U::lanes, targets.rest[at]);
      const size_t p = (j * groups >> KV) + q, at = half ? lower(p, groups) : p;
      const uint32_t sum = (history(t - 1)[at * U::lanes + lane] & ~15u) + cost;
      if (sum < least) least = sum, found = j;
    }
    return found * groups + k;
  }

  void back(const uint16_t* start, uint16_t* group, int from, uint16_t* states) const {
    const uint32_t mask = uint32_t(code.groups()) - 1;
    for (int t = code.steps - 1; t >= from; --t) {
      for (int lane = 0; lane < U::lanes; ++lane) {
        uint32_t s = state(t, group[lane], lane);
        // Where costs saturated, a path may not come from `start`: its first bits are known anyway.
        const int known = code.width() - t * KV;
        if (start && known > 0) {
          const uint32_t bits = ((1u << known) - 1) << (code.L - known), want = uint32_t(start[lane]) << (code.L - code.width());
          s = (s & ~bits) | ((want << (t * KV)) & bits);
        }
        states[size_t(lane) * code.steps + t] = uint16_t(s);
        group[lane] = uint16_t((s >> KV) & mask);
      }
    }
  }
};

template <class U, int KV, bool Wide>
void run_pass(const Code& code, const Targets& targets, int first, const uint16_t* start, const uint16_t* end, int from, void* scratch,
              uint16_t* states) {
  const Pass<U, KV, Wide> pass(code, targets, first, start == nullptr, scratch);
  pass.forward(start);
  uint16_t group[U::lanes];
  if (end) std::copy(end, end + U::lanes, group);
  else pass.best_end(group);
  pass.back(start, group, from, states);
}

template <class U>
void pass(const Code& code, const Targets& targets, int first, const uint16_t* start, const uint16_t* end, int from, void* scratch,
          uint16_t* states) {
  const auto run = [&](auto wide) {
    constexpr bool W = decltype(wide)::value;
    switch (code.KV) {
      case 1: return run_pass<U, 1, W>(code, targets, first, start, end, from, scratch, states);
      case 2: return run_pass<U, 2, W>(code, targets, first, start, end, from, scratch, states);
      case 3: return run_pass<U, 3, W>(code, targets, first, start, end, from, scratch, states);
      case 4: return run_pass<U, 4, W>(code, targets, first, start, end, from, scratch, states);
      case 5: return run_pass<U, 5, W>(code, targets, first, start, end, from, scratch, states);
      case 6: return run_pass<U, 6, W>(code, targets, first, start, end, from, scratch, states);
      case 7: return run_pass<U, 7, W>(code, targets, first, start, end, from, scratch, states);
      default: return run_pass<U, 8, W>(code, targets, first, start, end, from, scratch, states);
    }
  };
  if constexpr (U::lanes <= 8) {
    if (code.wide()) return run(std::true_type{});
  }
  run(std::false_type{});
}

template <class U>
constexpr Search search{U::lanes, U::slot, scratch<U>, pass<U>};

}  // namespace
}  // namespace ops::trellis
