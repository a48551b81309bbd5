// defines: finish_runs, begin_runs: linear.h's transforms by runs_kernel.cuh, where that can.
#pragma once
#include <array>
#include <optional>
#include <span>

#include "linear.h"
#include "product_launch.cuh"
#include "runs_enqueue.cuh"

namespace ops::product {

inline const uint4* mixing(int64_t block, int64_t factor, Cut cut, int share, bool transposed) {
  std::string name = "runs";
  for (const int64_t part : {block, factor, int64_t{cut.w}, int64_t{cut.runs}, int64_t{share}, int64_t{transposed}}) {
    name += ' ';
    name += std::to_string(part);
  }
  return reinterpret_cast<const uint4*>(constant(name, [&] { return operands(block, factor, cut, share, transposed); }));
}

// Whether four numbers can be read at once.
inline bool by_fours(std::initializer_list<const float*> all) {
  return std::ranges::all_of(all, [](const float* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; });
}
inline bool by_fours(const Output& o) { return by_fours({o.z, o.sv, o.bias, o.add, o.y, o.norm}) && o.stride % 4 == 0; }
// Whether lanes that are neighbours in a warp have a head of a run of w, each four numbers.
inline bool by_lanes(int64_t head, int w) { return head >= 4 && head <= std::min(w, 128) && (head & (head - 1)) == 0; }

inline Source source_of(const Output& o, const Plan& plan) {
  const float norm = static_cast<float>(1 / std::sqrt(static_cast<double>(o.block)));
  const uint4* const mix = plan.row ? nullptr : mixing(o.block, o.factor, plan.cut, plan.share * kCluster, false);
  return {nullptr, o.z, o.sv, o.add, o.y, o.stride, mix, norm, o.bias};
}

// Finishes up to four outputs by one kernel; false: it cannot.
inline bool finish_runs(std::span<const Output> outputs, int64_t t, const Card& here) {
  if (!here.overlaps || outputs.empty()) return false;
  int w = 1024;
  const Output* most = &outputs[0];
  for (const Output& o : outputs) {
    w = std::min(w, longest_run(o.block, o.factor));
    if (o.rows > most->rows) most = &o;
  }
  w = std::min(w, wished_run(most->rows, most->block, most->factor));
  Chains chains{};
  std::array<Plan, 4> plans{};
  bool rows = true;
  for (size_t i = 0; i < outputs.size(); ++i) rows = plans[i].of_row(outputs[i].rows, outputs[i].block, outputs[i].factor, 1, true, false) && rows;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Output& o = outputs[i];
    if (!by_fours(o) || (o.norm && !by_lanes(o.head, rows ? 128 : w)) || (!rows && !plans[i].of(cut_into(o.rows, w), 1, true, false))) return false;
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    Chain& c = chains.of[i];
    c.of[0] = source_of(outputs[i], plans[i]);
    adopt(c, plans[i]);
    c.weight = outputs[i].norm, c.head = static_cast<int>(outputs[i].head), c.to.eps = outputs[i].eps;
  }
  check(enqueue_finish(chains, plans.data(), static_cast<int>(outputs.size()), t, stream()));
  return true;
}

// How x and gate become digits of x̃, if that can be done here: both finished or both not.
inline std::optional<Plan> plan_of(const TrellisLinearArgs& a, const Card& here) {
  const Output &x = a.unfinished_x, &gate = a.unfinished_gate;
  const bool gated = a.gate || gate.z, finish = x.z != nullptr;
  if (!here.overlaps || (gated && finish != (gate.z != nullptr)) || !by_fours({a.x, a.gate, a.su, a.weight}) || !by_fours(x) || !by_fours(gate)) return {};
  for (const Output& o : {x, gate}) {
    if (o.z && (o.block != a.block || o.factor != a.factor)) return {};
  }
  Plan plan;
  if (plan.of_row(a.columns, a.block, a.factor, gated ? 2 : 1, finish, true)) return plan;
  if (!plan.of(cut_into(a.columns, wished_run(a.columns, a.block, a.factor)), gated ? 2 : 1, finish, true)) return {};
  return plan;
}

template <class Code>
void begin_runs(const TrellisLinearArgs& a, const Plan& plan, const Parts<Code>& parts) {
  const bool gated = a.gate || a.unfinished_gate.z, finish = a.unfinished_x.z != nullptr;
  const int64_t numbers = plan.all ? 0 : a.t * a.columns;
  Scratch<float> v(numbers + 1);
  Scratch<float2> sums(plan.all ? 1 : a.t * plan.sums());
  Chain c{};
  c.of[0].x = a.x, c.of[1].x = a.gate;
  if (finish) c.of[0] = source_of(a.unfinished_x, plan);
  if (finish && gated) c.of[1] = source_of(a.unfinished_gate, plan);
  c.su = a.su, c.weight = a.weight, c.v = v, c.sums = sums;
  adopt(c, plan);
  if (!plan.row) c.to.mix = mixing(a.block, a.factor, plan.cut, 16, true);
  c.to.parts = parts.digits, c.to.units = parts.units;
  c.to.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(a.block))), c.to.most = most_digits<Code>, c.to.eps = a.eps;
  c.to.bytes = Code::bytes, c.to.normed = a.weight != nullptr;
  check(enqueue_chain(c, plan, gated ? 2 : 1, a.t, stream()));
  if (!plan.all) check(enqueue_digits(c.to, v, sums, plan, a.t, stream()));
}

}  // namespace ops::product
