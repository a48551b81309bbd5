#include "cross_entropy.h"

#include "../../core/error.h"
#include "../../core/softmax.cuh"

namespace ops {

namespace {

// One block a row.
__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(CrossEntropyArgs args) {
  const float* row = args.logits + blockIdx.x * args.v;
  const int32_t target = args.targets[blockIdx.x];
  const double value = target < 0 ? 0 : block_log_sum(row, args.v).value - row[target];
  if (threadIdx.x == 0) args.out[blockIdx.x] = static_cast<float>(value);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args) {
  if (args.t == 0) return;
  const std::vector<int32_t> targets = to_host(args.targets, args.t);
  for (int64_t i = 0; i < args.t; ++i) {
    if (targets[i] < -1 || targets[i] >= args.v) {
      fail("target %lld is %d, and there are %lld logits", (long long)i, targets[i], (long long)args.v);
    }
  }
  cross_entropy_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
