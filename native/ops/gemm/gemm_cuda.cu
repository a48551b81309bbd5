#include "gemm.h"

#include "../../core/bf16.cuh"
#include "../../core/cublas.h"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

// An empty sum; cuBLAS would refuse the leading dimensions.
template <class T>
void empty_sum(const GemmArgs& args) {
  T* const c = reinterpret_cast<T*>(args.c);
  each(args.m * args.n, [args, c] __device__(int64_t i) {
    T& element = c[args.c_offset + i / args.n * args.ldc + i % args.n];
    narrow(args.beta == 0 ? 0.f : args.beta * widen(element), element);
  });
}

// LDLQ's feedback into a column block: c of few columns, a short sum. A block has kRows rows of c, and all that they need in
// shared memory at once, so that one latency is waited for.
constexpr int kRows = 32, kColumns = 16, kDepth = 128, kBlock = kRows * kColumns / 4;

bool is_narrow(const GemmArgs& args) { return !args.bf16 && !args.transpose_a && !args.transpose_b && args.n <= kColumns && args.k <= kDepth; }

__global__ void __launch_bounds__(kBlock)
    narrow_kernel(const float* a, const float* b, float* c, int64_t lda, int64_t ldb, int64_t ldc, int64_t m, int n, int k, float alpha, float beta) {
  __shared__ float4 right[kDepth][kColumns / 4];
  __shared__ float left[kRows][kDepth + 1];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  for (int e = threadIdx.x; e < k * kColumns; e += kBlock) {
    const int q = e / kColumns, j = e % kColumns;
    reinterpret_cast<float*>(right[q])[j] = j < n ? b[q * ldb + j] : 0;
  }
  for (int e = threadIdx.x; e < kRows * k; e += kBlock) {
    const int i = e / k, q = e % k;
    left[i][q] = first + i < m ? a[(first + i) * lda + q] : 0;
  }
  __syncthreads();
  const int i = threadIdx.x / (kColumns / 4), j = threadIdx.x % (kColumns / 4);
  float sums[4] = {};
  for (int q = 0; q < k; ++q) {
    const float x = left[i][q];
    const float4 y = right[q][j];
    sums[0] = fmaf(x, y.x, sums[0]), sums[1] = fmaf(x, y.y, sums[1]), sums[2] = fmaf(x, y.z, sums[2]), sums[3] = fmaf(x, y.w, sums[3]);
  }
  if (first + i >= m) return;
#pragma unroll
  for (int v = 0; v < 4; ++v) {
    if (4 * j + v >= n) break;
    float& element = c[(first + i) * ldc + 4 * j + v];
    element = beta == 0 ? alpha * sums[v] : fmaf(beta, element, alpha * sums[v]);
  }
}

}  // namespace

void gemm(const GemmArgs& args) {
  if (args.k <= 0) return args.c_bf16 ? empty_sum<uint16_t>(args) : empty_sum<float>(args);
  if (args.bf16) {
    return cublas_gemm_bf16(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha,
                            reinterpret_cast<const uint16_t*>(args.a) + args.a_offset, args.lda,
                            reinterpret_cast<const uint16_t*>(args.b) + args.b_offset, args.ldb, args.beta,
                            args.c + args.c_offset * (args.c_bf16 ? 2 : 4), args.c_bf16, args.ldc);
  }
  if (is_narrow(args)) {
    if (args.m <= 0 || args.n <= 0) return;
    narrow_kernel<<<static_cast<unsigned>((args.m + kRows - 1) / kRows), kBlock, 0, stream()>>>(
        reinterpret_cast<const float*>(args.a) + args.a_offset, reinterpret_cast<const float*>(args.b) + args.b_offset,
        reinterpret_cast<float*>(args.c) + args.c_offset, args.lda, args.ldb, args.ldc, args.m, static_cast<int>(args.n), static_cast<int>(args.k),
        args.alpha, args.beta);
    return launched();
  }
  cublas_gemm(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha, reinterpret_cast<const float*>(args.a) + args.a_offset,
              args.lda, reinterpret_cast<const float*>(args.b) + args.b_offset, args.ldb, args.beta,
              reinterpret_cast<float*>(args.c) + args.c_offset, args.ldc);
}

}  // namespace ops
