#include "embed_gradient.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

// One block a token. The first of those that are the same adds up for all of them, in their order.
__global__ void __launch_bounds__(kThreads) embed_gradient_kernel(EmbedGradientArgs args) {
  const auto& [dy, ids, into, t, v, d] = args;
  const int64_t i = blockIdx.x;
  const int32_t id = ids[i];
  bool earlier = false;
  for (int64_t j = threadIdx.x; j < i; j += kThreads) earlier |= ids[j] == id;
  if (__syncthreads_or(earlier)) return;
  for (int64_t column = threadIdx.x; column < d; column += kThreads) {
    float sum = into[id * d + column];
    for (int64_t j = i; j < t; ++j) {
      if (ids[j] == id) sum += dy[j * d + column];
    }
    into[id * d + column] = sum;
  }
}

}  // namespace

void embed_gradient(const EmbedGradientArgs& args) {
  const std::vector<int32_t> ids = to_host(args.ids, args.t);  // an id that is no row must be said, not written to
  for (int64_t i = 0; i < args.t; ++i) {
    if (ids[i] < 0 || ids[i] >= args.v) fail("token %lld is %d, and the table has %lld rows", (long long)i, ids[i], (long long)args.v);
  }
  if (args.t == 0) return;
  embed_gradient_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
