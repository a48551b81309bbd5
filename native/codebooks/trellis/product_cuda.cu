// One block a row of tiles, 16 lanes a row of weights.
#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "product.h"
#include "product_code.h"

namespace ops {

namespace {

constexpr int kMost = 16;  // vectors

__global__ void __launch_bounds__(256) product_kernel(const TrellisProductArgs a) {
  const auto code = static_cast<ProductCode>(a.code);
  const int row = threadIdx.x / 16, lane = threadIdx.x % 16, K = static_cast<int>(a.K);
  const bool pairs = code == ProductCode::hyb;
  const int64_t across = a.columns / 16;
  const int16_t* packed = reinterpret_cast<const int16_t*>(a.arranged) + blockIdx.x * across * 16 * K;
  float sums[kMost] = {};
  for (int64_t c = 0; c < across; ++c) {
    const int place = product::place(row, lane, a.tensor_core);
    const uint32_t s = product::state_at(packed + c * 16 * K, (pairs ? place & ~1 : place) * K, K);
    const product::Weights w = product::value(code, s, a.entries);
    const float value = pairs && lane % 2 ? w.second : w.first;
#pragma unroll
    for (int b = 0; b < kMost; ++b) {
      if (b < a.t) sums[b] = fmaf(value, a.x[b * a.columns + c * 16 + lane], sums[b]);
    }
  }
#pragma unroll
  for (int b = 0; b < kMost; ++b) {
    float sum = sums[b];
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0 && b < a.t) a.y[b * a.rows + blockIdx.x * 16 + row] = sum;
  }
}

}  // namespace

void trellis_arrange(const TrellisArrangeArgs& a) {
  check(cudaMemcpyAsync(a.arranged, a.packed, a.rows * a.columns * a.K / 8, cudaMemcpyDeviceToDevice, stream()));
}

void trellis_product(const TrellisProductArgs& a) {
  if (a.int8) fail("products in int8 are the CPU's");
  product_kernel<<<static_cast<unsigned>(a.rows / 16), 256, 0, stream()>>>(a);
  launched();
}

}  // namespace ops
