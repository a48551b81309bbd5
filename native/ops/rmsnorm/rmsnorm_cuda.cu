#include "rmsnorm.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"
#include "../../core/overlap.cuh"

namespace ops {

namespace {

// A block a row, or with WARP a warp a row: heads are short.
template <class In, class Out, bool WARP>
__global__ void __launch_bounds__(kThreads) rmsnorm_kernel(RmsnormArgs args) {
  wait_for_previous();
  let_next_begin();
  constexpr int kRow = WARP ? 32 : kThreads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kRow) + threadIdx.x / kRow;
  if (row >= args.rows) return;
  const int thread = threadIdx.x % kRow;
  const In* x = reinterpret_cast<const In*>(args.x) + row * args.n;
  Out* out = reinterpret_cast<Out*>(args.out) + row * args.n;
  float sum = 0;
  if (args.n % kVector == 0) {
    for (int64_t at = thread * kVector; at < args.n; at += kRow * kVector) {
      float values[kVector];
      load8(x + at, values);
#pragma unroll
      for (int j = 0; j < kVector; ++j) sum = fmaf(values[j], values[j], sum);
    }
  } else {
    for (int64_t j = thread; j < args.n; j += kRow) sum = fmaf(widen(x[j]), widen(x[j]), sum);
  }
  if constexpr (WARP) {
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  } else {
    sum = block_sum(sum);
  }
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(args.n) + args.eps);
  if (args.n % kVector == 0) {
    for (int64_t at = thread * kVector; at < args.n; at += kRow * kVector) {
      float values[kVector], weights[kVector];
      load8(x + at, values);
      load8(args.weight + at, weights);
#pragma unroll
      for (int j = 0; j < kVector; ++j) values[j] = values[j] * factor * weights[j];
      store8(out + at, values);
    }
  } else {
    for (int64_t j = thread; j < args.n; j += kRow) narrow(widen(x[j]) * factor * args.weight[j], out[j]);
  }
}

template <class In, class Out>
void run(const RmsnormArgs& args) {
  constexpr int kWarps = kThreads / 32;
  const unsigned blocks = static_cast<unsigned>(args.n <= 512 ? (args.rows + kWarps - 1) / kWarps : args.rows);
  check(launch(args.n <= 512 ? rmsnorm_kernel<In, Out, true> : rmsnorm_kernel<In, Out, false>, blocks, kThreads, 0, stream(), card_overlaps(), args));
}

}  // namespace

void rmsnorm(const RmsnormArgs& args) {
  if (args.rows == 0) return;
  if (args.x_bf16) return args.out_bf16 ? run<uint16_t, uint16_t>(args) : run<uint16_t, float>(args);
  args.out_bf16 ? run<float, uint16_t>(args) : run<float, float>(args);
}

}  // namespace ops
