#include "rmsnorm_backward.h"

#include "../../core/columns.cuh"

namespace ops {

namespace {

// One block a row; factors[row] = r.
__global__ void __launch_bounds__(kThreads) rmsnorm_backward_kernel(RmsnormBackwardArgs args, float* factors) {
  const int64_t at = blockIdx.x * args.n;
  float squares = 0, dot = 0;
  for (int64_t j = threadIdx.x; j < args.n; j += kThreads) {
    const float x = args.x[at + j];
    squares = fmaf(x, x, squares);
    dot = fmaf(args.weight[j] * args.dy[at + j], x, dot);
  }
  const float n = static_cast<float>(args.n);
  const float r = 1.0f / sqrtf(block_sum(squares) / n + args.eps);
  const float along = r * r * r / n * block_sum(dot);
  for (int64_t j = threadIdx.x; j < args.n; j += kThreads) args.dx[at + j] = r * args.weight[j] * args.dy[at + j] - args.x[at + j] * along;
  if (threadIdx.x == 0) factors[blockIdx.x] = r;
}

}  // namespace

void rmsnorm_backward(const RmsnormBackwardArgs& args) {
  if (args.rows == 0) return;
  Scratch<float> scratch(args.rows);
  float* const factors = scratch;
  rmsnorm_backward_kernel<<<args.rows, kThreads, 0, stream()>>>(args, factors);
  launched();
  add_column_sums(args.rows, args.n, args.gradient, [args, factors] __device__(int64_t i, int64_t j) {
    return args.dy[i * args.n + j] * args.x[i * args.n + j] * factors[i];
  });
}

}  // namespace ops
