// defines: arrange_kernel and prepare_kernel, which make what product_kernel.cuh reads from weights as stored and from vectors.
#pragma once
#include "product_kernel.cuh"

namespace ops::product {

// One thread a byte of the arranged matrix [⌈rows/32⌉][⌈columns/64⌉][2 rows of tiles][K words][32 lanes]; tiles beyond the matrix are zeros.
// Words come in vectors of 16 bytes (K even) or 8, lanes inside. A lane has 4K bytes of a tile that follow each other, the first of a word on top.
inline __device__ unsigned char arranged_byte(const unsigned char* packed, int64_t at, int rows, int columns, int K) {
  const int vector = K % 2 == 0 ? 4 : 2, chunks = padded(columns) / 64;
  const int in = static_cast<int>(at % (256 * K)), lane = in / (4 * vector) % 32, word = in / (4 * vector * 32) * vector + in / 4 % vector;
  const int64_t chunk = at / (256 * K), row = chunk / chunks * 2 + word / K;
  const int column = static_cast<int>(chunk % chunks) * 4 + lane % 4;
  if (row >= rows / 16 || column >= columns / 16) return 0;
  const int byte = (lane / 4 * K + word % K) * 4 + 3 - in % 4;
  return packed[(row * (columns / 16) + column) * 32 * K + (byte ^ 1)];  // stored words have their first byte on top
}

static __global__ void __launch_bounds__(256) arrange_kernel(const unsigned char* packed, unsigned char* arranged, int64_t size, int rows, int columns, int K) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < size; i += gridDim.x * int64_t{256}) {
    arranged[i] = arranged_byte(packed, i, rows, columns, K);
  }
}

// The digits of v, |v| ≤ 2^22 (bytes: three, signed) or 2^15 (f16: two), to place `at` of their parts; gives what they sum to (bytes).
template <bool bytes>
__device__ inline int split(float v, unsigned char* parts, int at, int stride) {
  if constexpr (bytes) {
    int q = __float2int_rn(v);
    const int whole = q, low = static_cast<signed char>(q);
    q = (q - low) >> 8;
    const int middle = static_cast<signed char>(q);
    parts[at] = static_cast<unsigned char>((q - middle) >> 8), parts[stride + at] = static_cast<unsigned char>(middle);
    parts[2 * stride + at] = static_cast<unsigned char>(low);
    return whole;
  } else {
    const __half high = __float2half_rn(v);
    reinterpret_cast<__half*>(parts)[at] = high;
    reinterpret_cast<__half*>(parts)[stride + at] = __float2half_rn(v - __half2float(high));
    return 0;
  }
}

// The largest number that digits reach; ‖x‖ becomes it, since no entry is larger, and none of the digits that are lost matters.
template <class Code>
constexpr float most_digits = Code::bytes ? 127.0f * 65536.0f : 32768.0f;

// One block a vector: x f32 [t, n] → parts and units.
template <class Code>
__global__ void __launch_bounds__(1024) prepare_kernel(const float* vectors, unsigned char* parts, float* units, int n) {
  __shared__ float scratch[64];
  const float* const x = vectors + static_cast<int64_t>(blockIdx.x) * n;
  const int stride = padded(n);
  unsigned char* const to = parts + static_cast<int64_t>(blockIdx.x) * Code::parts * stride * (Code::bytes ? 1 : 2);
  const auto over_block = [&](float v, float* partial) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    v = partial[threadIdx.x % 32];
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    return v;
  };
  float squares = 0;
  for (int i = threadIdx.x; i < n; i += 1024) squares = fmaf(x[i], x[i], squares);
  const float norm = sqrtf(over_block(squares, scratch));
  let_next_begin();
  const float unit = norm == 0 ? 1 : norm * (1.001f / most_digits<Code>);
  float sum = 0;
  for (int i = threadIdx.x; i < stride; i += 1024) {
    const int digits = split<Code::bytes>(i < n ? x[i] / unit : 0, to, i, stride);
    if constexpr (Code::bytes) sum += static_cast<float>(digits);
  }
  if constexpr (Code::bytes) sum = over_block(sum, scratch + 32);
  if (threadIdx.x == 0) units[2 * blockIdx.x] = unit, units[2 * blockIdx.x + 1] = sum;
}

}  // namespace ops::product
