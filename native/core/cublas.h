// defines: ops::cublas_gemm and cublas_gemm_bf16, products of matrices by cuBLAS, which is found at run time and never linked.
//
// f32 products are true f32 (no TF32): 67 instead of some 400 TFLOP/s on an H100, for Hessians and feedback that need
// their bits. Products of bf16 and f16 run on tensor cores and are summed in f32, never in less. cuBLAS gives the same bits every run on one kind of card.
#pragma once
#include <cstdint>
#include <string>

namespace ops {

// c [m, n] = alpha · op(a) [m, k] · op(b) [k, n] + beta · c, row-major with leading dimensions as in blas.h.
// Throws a sentence that names where cuBLAS was looked for when there is none.
void cublas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
                 int64_t ldb, float beta, float* c, int64_t ldc);

// The same with a and b in bf16; c is bf16 or f32.
void cublas_gemm_bf16(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const uint16_t* a, int64_t lda,
                      const uint16_t* b, int64_t ldb, float beta, uint8_t* c, bool c_is_bf16, int64_t ldc);

// The same with a and b in f16 and c in f32.
void cublas_gemm_f16(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const uint16_t* a, int64_t lda,
                     const uint16_t* b, int64_t ldb, float beta, float* c, int64_t ldc);

// The library that serves; path empty when there is none. Loads it.
struct CublasPlace {
  std::string path;
  std::string looked;  // the folders that were looked in, best first
};
CublasPlace cublas_place();
// The sentence for when there is none.
std::string cublas_missing();

// The handle of a device, made at first use on the queue's thread.
class Cublas {
 public:
  ~Cublas();
  void* handle();

 private:
  void use(void* stream);
  void* handle_ = nullptr;
  void* stream_ = nullptr;  // that it works on
  void* workspace_ = nullptr;
};
Cublas& cublas();  // of the device whose queue runs the calling op

}  // namespace ops
