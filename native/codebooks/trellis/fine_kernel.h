// The search in f32, of one sequence with one weight a step; included by one translation unit per instruction set. States
// lie in the lanes, 16 neighbouring groups at once. Every sum is made in one order: all instruction sets agree to the bit.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>

#include "search.h"

namespace ops::trellis {
namespace {

typedef float Floats __attribute__((vector_size(64)));
constexpr int floats = 16;

// Group minima after one step: out[q·outputs + i] = min over j of before[s >> KV] + (value of s - x)².
inline void fine_step(const Fine& code, float x, const float* before, float* out) {
  const int64_t groups = code.groups(), outputs = std::min<int64_t>(groups, int64_t{1} << code.KV);
  for (int64_t q = 0; q < groups / outputs; ++q, out += outputs) {
    const float* const values = code.values + q * outputs;
    int64_t i = 0;
    for (; i + floats <= outputs; i += floats) {
      Floats best = Floats{} + std::numeric_limits<float>::infinity();
      for (int64_t j = 0; j < int64_t{1} << code.KV; ++j) {
        Floats d;
        std::memcpy(&d, values + j * groups + i, sizeof d);
        d -= x;
        const Floats cost = d * d + before[(j * groups >> code.KV) + q];
        best = cost < best ? cost : best;
      }
      std::memcpy(out + i, &best, sizeof best);
    }
    for (; i < outputs; ++i) {
      out[i] = std::numeric_limits<float>::infinity();
      for (int64_t j = 0; j < int64_t{1} << code.KV; ++j) {
        const float d = values[j * groups + i] - x, cost = d * d + before[(j * groups >> code.KV) + q];
        out[i] = std::min(out[i], cost);
      }
    }
  }
}

// costs: [steps + 1][groups], before the first step and after each.
inline void fine_pass(const Fine& code, int first, int start, int end, float* costs, uint16_t* states) {
  const int64_t groups = code.groups();
  std::fill_n(costs, groups, start < 0 ? 0.0f : std::numeric_limits<float>::infinity());
  if (start >= 0) costs[start] = 0;
  for (int t = 0; t < code.steps; ++t) fine_step(code, code.x[(first + t) % code.steps], costs + t * groups, costs + (t + 1) * groups);
  const float* const last = costs + code.steps * groups;
  int64_t group = end < 0 ? std::min_element(last, last + groups) - last : end;
  for (int t = code.steps - 1; t >= 0; --t) {
    const float x = code.x[(first + t) % code.steps];
    const float* const before = costs + t * groups;
    float least = std::numeric_limits<float>::infinity();
    int64_t state = group;
    for (int64_t j = 0; j < int64_t{1} << code.KV; ++j) {
      const int64_t s = j * groups + group;
      const float d = code.values[s] - x, cost = d * d + before[s >> code.KV];
      if (cost < least) least = cost, state = s;
    }
    states[t] = uint16_t(state);
    group = state >> code.KV;
  }
}

}  // namespace
}  // namespace ops::trellis
