#include "sample.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "../../core/parallel.h"

namespace ops {

namespace {

// One row's tokens, and what it takes to choose among them.
struct Row {
  std::vector<float> z;
  std::vector<uint32_t> keys;
  std::vector<uint64_t> weights;
  std::vector<int32_t> ids;     // that are left, in their order
  std::vector<int32_t> members;  // of those, with the highest bytes that are known
};

// Where a sum over tokens, the likeliest first, passes `place`: the token, and the sum with it.
struct Passed {
  int32_t id;
  uint64_t with;
};

// A byte of the key at a time, from the highest: the tokens of one byte are left for the next.
template <class Measure>
Passed pass(Row& row, uint64_t place, Measure measure) {
  row.members = row.ids;
  uint64_t before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    uint64_t sums[256] = {};
    for (const int32_t j : row.members) sums[row.keys[j] >> shift & 255] += measure(j);
    uint32_t byte = 255;
    while (before + sums[byte] <= place) before += sums[byte--];
    std::erase_if(row.members, [&](int32_t j) { return (row.keys[j] >> shift & 255) != byte; });
  }
  const uint64_t each = measure(row.members[0]), at = (place - before) / each;  // equal ones weigh the same
  return {row.members[at], before + (at + 1) * each};
}

int32_t draw(Row& row, int64_t v, float most, const Drawing& how) {
  row.ids.resize(v);
  std::iota(row.ids.begin(), row.ids.end(), 0);
  if (how.k > 0 && how.k < v) {
    const auto last = pass(row, static_cast<uint64_t>(how.k) - 1, [](int32_t) { return 1; }).id;
    const uint32_t key = row.keys[last];
    std::erase_if(row.ids, [&](int32_t j) { return row.keys[j] < key || (row.keys[j] == key && j > last); });
  }
  row.weights.resize(v);
  uint64_t all = 0, likely = 0;
  for (const int32_t j : row.ids) {
    const uint64_t weight = row.weights[j] = sample_weight(row.z[j], most, how.temperature);
    all += weight;
    if (static_cast<double>(weight) >= how.least * kSampleOne) likely += weight;
  }
  const auto weight_of = [&](int32_t j) { return row.weights[j]; };
  uint64_t left = std::min(all, std::max(likely, kSampleOne));
  if (how.p < 1) left = std::min(left, pass(row, sample_enough(how.p, all) - 1, weight_of).with);
  return pass(row, sample_place(how.u, left), weight_of).id;
}

int32_t token(Row& row, const SampleArgs& args, int64_t i) {
  const Drawing& how = reinterpret_cast<const Drawing*>(args.how)[i];
  const int64_t slot = args.slots[i];
  if (slot < 0 || slot >= args.s || !sample_can(how)) return -1;
  uint8_t* seen = how.penalty == 1 ? nullptr : args.seen + slot * args.v;
  row.z.assign(args.logits + i * args.v, args.logits + (i + 1) * args.v);
  row.keys.resize(args.v);
  int32_t best = 0;
  for (int64_t j = 0; j < args.v; ++j) {
    float& z = row.z[j];
    if (seen && seen[j]) z = sample_penalized(z, how.penalty);
    if (std::isnan(z)) return -1;
    row.keys[j] = sample_key(z);
    if (row.keys[j] > row.keys[best]) best = static_cast<int32_t>(j);
  }
  if (!std::isfinite(row.z[best])) return -1;
  const int32_t id = how.temperature == 0 ? best : draw(row, args.v, row.z[best], how);
  if (seen) seen[id] = 1;
  return id;
}

}  // namespace

void sample(const SampleArgs& args) {
  parallel_for(args.t, 1, [&](int64_t begin, int64_t end) {
    Row row;
    for (int64_t i = begin; i < end; ++i) args.out[i] = token(row, args, i);
  });
}

}  // namespace ops
