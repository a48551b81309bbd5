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

}  // namespace

void gemm(const GemmArgs& args) {
  if (args.k <= 0) return args.c_bf16 ? empty_sum<uint16_t>(args) : empty_sum<float>(args);
  if (args.bf16) {
    return cublas_gemm_bf16(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha,
                            reinterpret_cast<const uint16_t*>(args.a) + args.a_offset, args.lda,
                            reinterpret_cast<const uint16_t*>(args.b) + args.b_offset, args.ldb, args.beta,
                            args.c + args.c_offset * (args.c_bf16 ? 2 : 4), args.c_bf16, args.ldc);
  }
  cublas_gemm(args.transpose_a, args.transpose_b, args.m, args.n, args.k, args.alpha, reinterpret_cast<const float*>(args.a) + args.a_offset,
              args.lda, reinterpret_cast<const float*>(args.b) + args.b_offset, args.ldb, args.beta,
              reinterpret_cast<float*>(args.c) + args.c_offset, args.ldc);
}

}  // namespace ops
