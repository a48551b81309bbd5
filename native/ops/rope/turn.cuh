// defines: load, store, turn: the rotation of rope.h on a GPU, of WIDTH neighbouring pairs a thread, eight or one.
#pragma once
#include "../../core/bf16.cuh"

namespace ops {

template <int WIDTH, class T>
__device__ inline void load(const T* from, float (&to)[kVector]) {
  if constexpr (WIDTH == kVector) load8(from, to);
  else to[0] = widen(*from);
}
template <int WIDTH, class T>
__device__ inline void store(T* to, const float (&x)[kVector]) {
  if constexpr (WIDTH == kVector) store8(to, x);
  else narrow(x[0], *to);
}

template <int WIDTH>
__device__ inline void turn(float (&a)[kVector], float (&b)[kVector], const float* cos, const float* sin) {
  float c[kVector], s[kVector];
  load<WIDTH>(cos, c), load<WIDTH>(sin, s);
#pragma unroll
  for (int j = 0; j < WIDTH; ++j) {
    const float turned = a[j] * c[j] - b[j] * s[j];
    b[j] = b[j] * c[j] + a[j] * s[j];
    a[j] = turned;
  }
}

}  // namespace ops
