#include "gemm.h"

#include "../../core/bf16.cuh"
#include "../../core/cublas.h"
#include "../../core/cuda.cuh"
#include "../../core/overlap.cuh"

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

// One row of bf16 times Wᵀ, W [n, k]: reading W is what takes time. A warp has kTall rows of W, and all its loads of a step under way
// at once; what the first step of a block reads is brought into the level-2 cache while the kernel before still makes x.
constexpr int kTall = 2, kVectorWarps = 8, kSteps = 4, kStep = 32 * kVector;

bool is_vector(const GemmArgs& args) {
  const auto whole = [](int64_t x) { return x % kVector == 0; };
  return args.bf16 && args.m == 1 && !args.transpose_a && args.transpose_b && whole(args.k) && whole(args.ldb) && whole(args.a_offset) &&
         whole(args.b_offset) && args.k <= 20480;
}

template <class C>
__global__ void __launch_bounds__(kVectorWarps * 32)
    vector_kernel(const uint16_t* x, const uint16_t* w, C* c, int64_t ldw, int n, int k, float alpha, float beta) {
  extern __shared__ uint4 held[];
  const int lane = threadIdx.x % 32, row = (blockIdx.x * kVectorWarps + threadIdx.x / 32) * kTall;
  for (int line = lane; line < kTall * kSteps * kStep / 64; line += 32) {  // of 128 bytes
    const int r = line % kTall, at = line / kTall * 64;
    if (row + r < n && at < k) asm volatile("prefetch.global.L2 [%0];" ::"l"(w + (row + r) * ldw + at));
  }
  wait_for_previous();
  let_next_begin();
  uint4 next[kTall][kSteps];
  const auto fetch = [&](int from) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int r = 0; r < kTall; ++r) {
        const int at = from + s * kStep + lane * kVector;
        next[r][s] = at < k && row + r < n ? *reinterpret_cast<const uint4*>(w + (row + r) * ldw + at) : uint4{};
      }
    }
  };
  fetch(0);
  for (int at = threadIdx.x; at < k / kVector; at += blockDim.x) held[at] = reinterpret_cast<const uint4*>(x)[at];
  __syncthreads();
  float sums[kTall] = {};
  for (int from = 0; from < k; from += kSteps * kStep) {
    if (from > 0) fetch(from);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int at = from + s * kStep + lane * kVector;
      const uint4 own = at < k ? held[at / kVector] : uint4{};
      const uint32_t xs[] = {own.x, own.y, own.z, own.w};
#pragma unroll
      for (int r = 0; r < kTall; ++r) {
        const uint32_t ws[] = {next[r][s].x, next[r][s].y, next[r][s].z, next[r][s].w};
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[r] = fmaf(high_of(xs[i]), high_of(ws[i]), fmaf(low_of(xs[i]), low_of(ws[i]), sums[r]));
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kTall; ++r) {
    for (int offset = 16; offset > 0; offset /= 2) sums[r] += __shfl_xor_sync(~0u, sums[r], offset);
    if (lane == 0 && row + r < n) narrow(beta == 0 ? alpha * sums[r] : fmaf(beta, widen(c[row + r]), alpha * sums[r]), c[row + r]);
  }
}

template <class C>
void vector(const GemmArgs& args) {
  constexpr int kRowsOf = kVectorWarps * kTall;
  const auto at = [](const uint8_t* data, int64_t offset) { return reinterpret_cast<const uint16_t*>(data) + offset; };
  check(launch(vector_kernel<C>, static_cast<unsigned>((args.n + kRowsOf - 1) / kRowsOf), kVectorWarps * 32, args.k * sizeof(uint16_t), stream(),
               card_overlaps(), at(args.a, args.a_offset), at(args.b, args.b_offset), reinterpret_cast<C*>(args.c) + args.c_offset, args.ldb, args.n, args.k,
               args.alpha, args.beta));
}

}  // namespace

void gemm(const GemmArgs& args) {
  if (args.m <= 0 || args.n <= 0) return;
  if (args.k <= 0) return args.c_bf16 ? empty_sum<uint16_t>(args) : empty_sum<float>(args);
  if (is_vector(args)) return args.c_bf16 ? vector<uint16_t>(args) : vector<float>(args);
  if (args.bf16) {
    return cublas_gemm_bf16(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha,
                            reinterpret_cast<const uint16_t*>(args.a) + args.a_offset, args.lda,
                            reinterpret_cast<const uint16_t*>(args.b) + args.b_offset, args.ldb, args.beta,
                            args.c + args.c_offset * (args.c_bf16 ? 2 : 4), args.c_bf16, args.ldc);
  }
  if (is_narrow(args)) {
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
