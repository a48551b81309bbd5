#include "kl_gradient.h"

#include "../../core/softmax.cuh"

namespace ops {

namespace {

// One block a row.
__global__ void __launch_bounds__(kThreads) kl_gradient_kernel(KlGradientArgs args) {
  const int64_t at = blockIdx.x * args.v;
  const float *a = args.teacher + at, *b = args.student + at;
  const LogSum sa = block_log_sum(a, args.v), sb = block_log_sum(b, args.v);
  const float of_a = static_cast<float>(1 / sa.sum), of_b = static_cast<float>(1 / sb.sum);
  double far = 0, cross = 0;
  for (int64_t j = threadIdx.x; j < args.v; j += kThreads) {
    const float p = expf(a[j] - sa.max), q = expf(b[j] - sb.max);
    const double log_q = b[j] - sb.value;
    far += p * ((a[j] - sa.value) - log_q);
    cross -= p * log_q;
    args.gradient[at + j] = args.factor * (q * of_b - p * of_a);
  }
  far = block_sum(far);
  cross = block_sum(cross);
  if (threadIdx.x != 0) return;
  args.divergence[blockIdx.x] = static_cast<float>(far / sa.sum);
  args.cross_entropy[blockIdx.x] = static_cast<float>(cross / sa.sum);
}

}  // namespace

void kl_gradient(const KlGradientArgs& args) {
  if (args.t == 0) return;
  kl_gradient_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
