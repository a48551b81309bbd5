#include "advance.h"

#include "../../core/cuda.cuh"
#include "../../core/overlap.cuh"

namespace ops {

namespace {

__global__ void __launch_bounds__(kThreads) advance_kernel(const AdvanceArgs args) {
  wait_for_previous();
  let_next_begin();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < args.t) args.ids[i] = args.best[i] < 0 ? 0 : args.best[i], ++args.positions[i];
}

}  // namespace

void advance(const AdvanceArgs& args) {
  if (args.t == 0) return;
  check(launch(advance_kernel, static_cast<unsigned>((args.t + kThreads - 1) / kThreads), kThreads, 0, stream(), card_overlaps(), args));
}

}  // namespace ops
