#include <cfloat>

#include "../../core/softmax.cuh"
#include "sparse_logits.h"

namespace ops {

namespace {

// One block a row.
__global__ void __launch_bounds__(kThreads) sparse_logits_kernel(SparseLogitsArgs args) {
  const auto& [indices, values, rest, like, out, t, v, k] = args;
  const int64_t i = blockIdx.x;
  const int32_t* at = indices + i * k;
  float* row = out + i * v;
  bool wrong = false;
  for (int64_t c = threadIdx.x; c < k; c += kThreads) wrong |= at[c] < 0 || at[c] >= v;
  wrong = __syncthreads_or(wrong);
  for (int64_t j = threadIdx.x; j < v; j += kThreads) row[j] = wrong ? NAN : like[i * v + j];
  if (wrong) return;
  __syncthreads();
  for (int64_t c = threadIdx.x; c < k; c += kThreads) row[at[c]] = -FLT_MAX;
  __syncthreads();
  const float shift = fmaxf(rest[i], kLeastLog) - static_cast<float>(block_log_sum(row, v).value);
  __syncthreads();
  for (int64_t j = threadIdx.x; j < v; j += kThreads) row[j] += shift;
  __syncthreads();
  for (int64_t c = threadIdx.x; c < k; c += kThreads) row[at[c]] = fmaxf(values[i * k + c], kLeastLog);
}

}  // namespace

void sparse_logits(const SparseLogitsArgs& args) {
  if (args.t == 0) return;
  sparse_logits_kernel<<<args.t, kThreads, 0, stream()>>>(args);
  launched();
}

}  // namespace ops
