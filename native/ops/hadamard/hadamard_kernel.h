// defines: the loops of the Hadamard transform that are worth an instruction set each.
#pragma once
#include <cstdint>

namespace ops {

struct HadamardKernel {
  // Stages of stride from, 2·from, … < to, in place: (a, b) → (a + b, a − b). x [n], n a multiple of `to`; powers of two.
  void (*butterflies)(float* x, int64_t n, int64_t from, int64_t to);
  // out[i] = x[i] · by[i] · factor; by may be null. out may be x.
  void (*scale)(const float* x, const float* by, float factor, float* out, int64_t n);
};

HadamardKernel hadamard_kernel_avx2();
HadamardKernel hadamard_kernel_avx512();

namespace {

template <int W>
struct Lanes {
  typedef float Float __attribute__((vector_size(4 * W)));
  typedef float Memory __attribute__((vector_size(4 * W), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(4 * W)));
};

// Stage of stride H within a vector: lane i gets x[i ^ H] ± x[i].
template <int W, int H>
typename Lanes<W>::Float within(typename Lanes<W>::Float x) {
  using Int = typename Lanes<W>::Int;
  Int mask, sign;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    mask[i] = i ^ H;
    sign[i] = i & H ? INT32_MIN : 0;
  }
  return __builtin_shuffle(x, mask) + (typename Lanes<W>::Float)((Int)x ^ sign);
}

// Stages of stride 1, 2, 4, … < R over R vectors in registers.
template <int W, int R>
void across(typename Lanes<W>::Float (&v)[R]) {
#pragma GCC unroll 4
  for (int h = 1; h < R; h *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      if (i & h) continue;
      const auto a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = a - b;
    }
  }
}

// Strides from … < W within vectors, then W … < R·W across R neighbouring vectors.
template <int W, int R>
void near_stages(float* x, int64_t n, int64_t from, int64_t to) {
  using Memory = typename Lanes<W>::Memory;
  for (int64_t i = 0; i + R * W <= n; i += R * W) {
    typename Lanes<W>::Float v[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      v[r] = *reinterpret_cast<const Memory*>(x + i + r * W);
      if (from <= 1 && to > 1) v[r] = within<W, 1>(v[r]);
      if (from <= 2 && to > 2) v[r] = within<W, 2>(v[r]);
      if constexpr (W > 4) {
        if (from <= 4 && to > 4) v[r] = within<W, 4>(v[r]);
      }
      if constexpr (W > 8) {
        if (from <= 8 && to > 8) v[r] = within<W, 8>(v[r]);
      }
    }
    across<W, R>(v);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) *reinterpret_cast<Memory*>(x + i + r * W) = v[r];
  }
}

// Strides h, 2h, … < R·h, h ≥ W.
template <int W, int R>
void far_stages(float* x, int64_t n, int64_t h) {
  using Memory = typename Lanes<W>::Memory;
  for (int64_t i = 0; i < n; i += R * h) {
    for (int64_t j = i; j < i + h; j += W) {
      typename Lanes<W>::Float v[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) v[r] = *reinterpret_cast<const Memory*>(x + j + r * h);
      across<W, R>(v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) *reinterpret_cast<Memory*>(x + j + r * h) = v[r];
    }
  }
}

// RADIX: the most vectors that fit the registers.
template <int W, int RADIX>
void butterflies(float* x, int64_t n, int64_t from, int64_t to) {
  if (from >= to) return;
  int64_t h = from;
  if (h < W && to <= W) {
    near_stages<W, 1>(x, n, from, to);
    for (float* tail = x + n / W * W; tail < x + n; tail += to) {  // less than a vector: whole transforms, as to divides W
      for (int64_t s = from; s < to; s *= 2) {
        for (int64_t i = 0; i < to; ++i) {
          if (i & s) continue;
          const float a = tail[i], b = tail[i + s];
          tail[i] = a + b;
          tail[i + s] = a - b;
        }
      }
    }
    return;
  }
  if (h < W) {
    const int64_t radix = to / W < RADIX ? to / W : RADIX;
    if (radix == 2) near_stages<W, 2>(x, n, from, to);
    else if (radix == 4) near_stages<W, 4>(x, n, from, to);
    else if (radix == 8) near_stages<W, 8>(x, n, from, to);
    else near_stages<W, RADIX>(x, n, from, to);
    h = radix * W;
  }
  while (h < to) {
    // From strides of 4 KB on all vectors of a group share one set of the L1, which has 8 ways.
    const int64_t most = h >= 1024 && RADIX > 8 ? 8 : RADIX;
    const int64_t radix = to / h < most ? to / h : most;
    if (radix == 2) far_stages<W, 2>(x, n, h);
    else if (radix == 4) far_stages<W, 4>(x, n, h);
    else if (radix == 8) far_stages<W, 8>(x, n, h);
    else far_stages<W, RADIX>(x, n, h);
    h *= radix;
  }
}

template <int W>
void scale(const float* x, const float* by, float factor, float* out, int64_t n) {
  using Memory = typename Lanes<W>::Memory;
  int64_t i = 0;
  if (by) {
    for (; i + W <= n; i += W) {
      *reinterpret_cast<Memory*>(out + i) = *reinterpret_cast<const Memory*>(x + i) * (*reinterpret_cast<const Memory*>(by + i) * factor);
    }
    for (; i < n; ++i) out[i] = x[i] * (by[i] * factor);
  } else {
    for (; i + W <= n; i += W) *reinterpret_cast<Memory*>(out + i) = *reinterpret_cast<const Memory*>(x + i) * factor;
    for (; i < n; ++i) out[i] = x[i] * factor;
  }
}

}  // namespace
}  // namespace ops
