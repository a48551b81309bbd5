// The steps one after the other, by the ops that there are for them.
#include <vector>

#include "linear_by_ops.h"

namespace ops {

namespace {

// x, or what it becomes: kept where that is asked for, else in `own`.
const float* finished(const float* x, Output unfinished, int64_t t, std::vector<float>& own) {
  if (!unfinished.z) return x;
  if (!unfinished.y) own.resize(t * unfinished.rows), unfinished.y = own.data();
  finish_by_ops(unfinished, t);
  return unfinished.y;
}

}  // namespace

void trellis_linear(const TrellisLinearArgs& a) {
  std::vector<float> own_x, own_gate, incoherent(a.t * a.columns);
  const float *x = finished(a.x, a.unfinished_x, a.t, own_x), *gate = finished(a.gate, a.unfinished_gate, a.t, own_gate);
  std::vector<float> made(a.weight || gate ? a.t * a.columns : 0);
  linear_by_ops(a, x, gate, made.data(), incoherent.data());
}

void trellis_finish(const TrellisFinishArgs& args) {
  for (const Output& o : args.outputs) {
    if (o.z) finish_by_ops(o, args.t);
  }
}

}  // namespace ops
