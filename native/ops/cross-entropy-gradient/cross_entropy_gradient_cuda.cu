#include "cross_entropy_gradient.h"

#include "../../core/error.h"
#include "../../core/softmax.cuh"

namespace ops {

namespace {

// One block a row. Labels are few: each thread adds them up for itself, and one subtracts them.
__global__ void __launch_bounds__(kThreads) cross_entropy_gradient_kernel(CrossEntropyGradientArgs args) {
  const float* row = args.logits + blockIdx.x * args.v;
  float* out = args.gradient + blockIdx.x * args.v;
  const int64_t first = blockIdx.x * args.k, last = first + args.k;
  const LogSum sum = block_log_sum(row, args.v);
  double total = 0, weight = 0;
  for (int64_t l = first; l < last; ++l) {
    if (args.targets[l] < 0) continue;
    const double share = args.weights ? args.weights[l] : 1;
    weight += share;
    total += share * (sum.value - row[args.targets[l]]);
  }
  const float scale = static_cast<float>(args.factor * weight / sum.sum);
  for (int64_t j = threadIdx.x; j < args.v; j += kThreads) out[j] = expf(row[j] - sum.max) * scale;
  __syncthreads();
  if (threadIdx.x != 0) return;
  args.loss[blockIdx.x] = static_cast<float>(total);
  for (int64_t l = first; l < last; ++l) {
    if (args.targets[l] >= 0) out[args.targets[l]] -= args.factor * (args.weights ? args.weights[l] : 1);
  }
}

}  // namespace

void cross_entropy_gradient(const CrossEntropyGradientArgs& args) {
  if (args.t == 0) return;
  const std::vector<int32_t> targets = to_host(args.targets, args.t * args.k);
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] < -1 || targets[i] >= args.v) fail("target %lld is %d, and there are %lld logits", (long long)i, targets[i], (long long)args.v);
  }
  cross_entropy_gradient_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
