// defines: the loops of the Hadamard transform that are worth an instruction set each.
#pragma once
#include <cstdint>
#include <utility>

namespace ops {

struct HadamardKernel {
  // out = x·diag(by)·factor, then Sylvester's transform of every run of `size` (a power of two that divides n); by may be null.
  void (*rows)(const float* x, const float* by, float factor, float* out, int64_t n, int64_t size);
  // Stages of stride from, 2·from, … < to, in place, over x [n]; powers of two, `from` a multiple of 16, n of `to`.
  void (*stages)(float* x, int64_t n, int64_t from, int64_t to);
  // out[i, j] = x[i, j] · by[i] · factor for [rows, columns]; by may be null; ldx, ldo from row to row.
  void (*strip)(const float* x, int64_t ldx, const float* by, float factor, float* out, int64_t ldo, int64_t rows, int64_t columns);
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
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    const Int sign = {(i & H ? INT32_MIN : 0)...};
    return __builtin_shufflevector(x, x, (i ^ H)...) + (typename Lanes<W>::Float)((Int)x ^ sign);
  }(std::make_integer_sequence<int, W>{});
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

// x·by·factor, then strides 1 … < min(W, size) within vectors and W … < R·W across R neighbouring ones. Leaves out n % (R·W).
template <int W, int R>
void near_stages(const float* x, const float* by, float factor, float* out, int64_t n, int64_t size) {
  using Memory = typename Lanes<W>::Memory;
  for (int64_t i = 0; i + R * W <= n; i += R * W) {
    typename Lanes<W>::Float v[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int64_t at = i + r * W;
      v[r] = *reinterpret_cast<const Memory*>(x + at) * factor;
      if (by) v[r] = v[r] * *reinterpret_cast<const Memory*>(by + at);
      if (R > 1 || size > 1) v[r] = within<W, 1>(v[r]);
      if (R > 1 || size > 2) v[r] = within<W, 2>(v[r]);
      if constexpr (W > 4) {
        if (R > 1 || size > 4) v[r] = within<W, 4>(v[r]);
      }
      if constexpr (W > 8) {
        if (R > 1 || size > 8) v[r] = within<W, 8>(v[r]);
      }
    }
    across<W, R>(v);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) *reinterpret_cast<Memory*>(out + i + r * W) = v[r];
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
void stages(float* x, int64_t n, int64_t from, int64_t to) {
  for (int64_t h = from; h < to;) {
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

template <int W, int RADIX>
void rows(const float* x, const float* by, float factor, float* out, int64_t n, int64_t size) {
  if (size <= W) {
    near_stages<W, 1>(x, by, factor, out, n, size);
    for (int64_t at = n / W * W; at < n; at += size) {  // less than a vector: whole transforms, as size divides W
      for (int64_t i = at; i < at + size; ++i) out[i] = by ? x[i] * factor * by[i] : x[i] * factor;
      for (int64_t h = 1; h < size; h *= 2) {
        for (int64_t i = at; i < at + size; ++i) {
          if ((i - at) & h) continue;
          const float a = out[i], b = out[i + h];
          out[i] = a + b;
          out[i + h] = a - b;
        }
      }
    }
    return;
  }
  const int64_t radix = size / W < RADIX ? size / W : RADIX;
  if (radix == 2) near_stages<W, 2>(x, by, factor, out, n, size);
  else if (radix == 4) near_stages<W, 4>(x, by, factor, out, n, size);
  else if (radix == 8) near_stages<W, 8>(x, by, factor, out, n, size);
  else near_stages<W, RADIX>(x, by, factor, out, n, size);
  stages<W, RADIX>(out, n, radix * W, size);
}

template <int W>
void strip(const float* x, int64_t ldx, const float* by, float factor, float* out, int64_t ldo, int64_t rows, int64_t columns) {
  using Memory = typename Lanes<W>::Memory;
  for (int64_t i = 0; i < rows; ++i) {
    const float scale = by ? by[i] * factor : factor;
    int64_t j = 0;
    for (; j + W <= columns; j += W) {
      *reinterpret_cast<Memory*>(out + i * ldo + j) = *reinterpret_cast<const Memory*>(x + i * ldx + j) * scale;
    }
    for (; j < columns; ++j) out[i * ldo + j] = x[i * ldx + j] * scale;
  }
}

}  // namespace
}  // namespace ops
