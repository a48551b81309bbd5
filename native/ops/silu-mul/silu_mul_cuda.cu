#include "silu_mul.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"

namespace ops {

namespace {

__device__ float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// Eight elements a thread; the last thread's may be fewer.
template <class T>
void run(const SiluMulArgs& args) {
  const T *gate = reinterpret_cast<const T*>(args.gate), *up = reinterpret_cast<const T*>(args.up);
  T* out = reinterpret_cast<T*>(args.out);
  const int64_t n = args.n;
  each((n + kVector - 1) / kVector, [=] __device__(int64_t i) {
    const int64_t at = i * kVector;
    if (at + kVector > n) {
      for (int64_t j = at; j < n; ++j) narrow(gated(widen(gate[j]), widen(up[j])), out[j]);
      return;
    }
    float x[kVector], y[kVector];
    load8(gate + at, x);
    load8(up + at, y);
#pragma unroll
    for (int j = 0; j < kVector; ++j) x[j] = gated(x[j], y[j]);
    store8(out + at, x);
  });
}

}  // namespace

void silu_mul(const SiluMulArgs& args) { args.bf16 ? run<uint16_t>(args) : run<float>(args); }

}  // namespace ops
