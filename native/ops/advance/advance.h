// What a step of decoding leaves for the next one: the tokens that were picked (0 where none could be: −1), one position on.
//
//   ids[t] = max(best[t], 0)        positions[t] = positions[t] + 1
//
//   best, ids, positions  i32 [t], three tensors
//   cost                  none to speak of: it saves the host two writes a step
#pragma once
#include "../../core/args.h"

namespace ops {

struct AdvanceArgs {
  const int32_t* best;  // [t]
  int32_t* ids;         // [t]
  int32_t* positions;   // [t]
  int64_t t;
  template <class V>
  void fields(V& v) {
    v("best", best), v("ids", ids), v("positions", positions), v("t", t);
  }
};

void advance(const AdvanceArgs& args);

}  // namespace ops
