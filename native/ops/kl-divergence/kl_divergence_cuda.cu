#include "kl_divergence.h"

#include "../../core/softmax.cuh"

namespace ops {

namespace {

// One block a row.
__global__ void __launch_bounds__(kThreads) kl_divergence_kernel(KlDivergenceArgs args) {
  const float *a = args.p + blockIdx.x * args.v, *b = args.q + blockIdx.x * args.v;
  const LogSum sa = block_log_sum(a, args.v), sb = block_log_sum(b, args.v);
  double sum = 0;
  for (int64_t j = threadIdx.x; j < args.v; j += kThreads) sum += expf(a[j] - sa.max) * ((a[j] - sa.value) - (b[j] - sb.value));
  sum = block_sum(sum);
  if (threadIdx.x == 0) args.out[blockIdx.x] = static_cast<float>(sum / sa.sum);
}

}  // namespace

void kl_divergence(const KlDivergenceArgs& args) {
  if (args.t == 0) return;
  kl_divergence_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
