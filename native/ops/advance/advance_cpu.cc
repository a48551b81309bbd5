#include "advance.h"

namespace ops {

void advance(const AdvanceArgs& args) {
  for (int64_t i = 0; i < args.t; ++i) args.ids[i] = args.best[i] < 0 ? 0 : args.best[i], ++args.positions[i];
}

}  // namespace ops
