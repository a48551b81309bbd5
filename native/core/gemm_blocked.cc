#include "gemm_blocked.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "gemm.h"
#include "parallel.h"

namespace ops {

namespace {

constexpr int64_t kDepth = 256;     // of a panel: a B tile of 256 columns (256 KB in f32) stays in the L2
constexpr int64_t kColumns = 4096;  // of B packed at a time: bounds the packing memory
constexpr int64_t kTile = 256;      // rows and columns of C, about, that one piece of work covers
constexpr int64_t kSmall = 1 << 20; // multiply-adds below which a second thread costs more than it saves

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Grow-only memory for the packed panels, kept from call to call by the queue's thread.
template <class T>
T* scratch(int slot, int64_t count) {
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<T, Free> memory[2];
  thread_local int64_t sizes[2] = {0, 0};
  if (sizes[slot] < count) {
    memory[slot].reset(static_cast<T*>(std::aligned_alloc(64, divide_up(count * sizeof(T), 64) * 64)));
    sizes[slot] = memory[slot] ? count : 0;
    if (!memory[slot]) throw std::bad_alloc();
  }
  return memory[slot].get();
}

// packed[l·width + i] = x[i·step + l·stride], i < count, l < depth; zeros for count ≤ i < width.
template <class T>
void pack(T* packed, const T* x, int64_t step, int64_t stride, int64_t count, int64_t width, int64_t depth) {
  if (step == 1) {
    for (int64_t l = 0; l < depth; ++l) {
      for (int64_t i = 0; i < count; ++i) packed[l * width + i] = x[l * stride + i];
      for (int64_t i = count; i < width; ++i) packed[l * width + i] = T(0);
    }
    return;
  }
  for (int64_t block = 0; block < depth; block += 16) {  // a cache line of each row at a time
    const int64_t end = std::min(depth, block + 16);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t l = block; l < end; ++l) packed[l * width + i] = x[i * step + l * stride];
    }
    for (int64_t l = block; l < end; ++l) {
      for (int64_t i = count; i < width; ++i) packed[l * width + i] = T(0);
    }
  }
}

}  // namespace

template <class T>
GemmKernel<T> choose_gemm_kernel() {
#if defined(__x86_64__)
  if (context().level == Level::avx512) return gemm_kernel_avx512<T>();
  if (context().level == Level::avx2) return gemm_kernel_avx2<T>();
#endif
  return gemm_kernel_portable<T>();
}

template GemmKernel<float> choose_gemm_kernel();
template GemmKernel<double> choose_gemm_kernel();

template <class T>
void gemm_blocked(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
                  int64_t ldb, T beta, T* c, int64_t ldc) {
  const GemmKernel<T> kernel = choose_gemm_kernel<T>();
  const int64_t mr = kernel.mr, nr = kernel.nr;
  const int64_t a_row = transpose_a ? 1 : lda, a_depth = transpose_a ? lda : 1;
  const int64_t b_column = transpose_b ? ldb : 1, b_depth = transpose_b ? 1 : ldb;
  const bool small = m * n * k < kSmall;
  const int64_t row_panels = divide_up(m, mr);
  const int64_t tile_rows = divide_up(kTile, mr);  // in panels
  const int64_t tile_columns = divide_up(kTile, nr);

  for (int64_t column0 = 0; column0 < n; column0 += kColumns) {
    const int64_t columns = std::min(kColumns, n - column0);
    const int64_t column_panels = divide_up(columns, nr);
    for (int64_t depth0 = 0; depth0 < std::max<int64_t>(k, 1); depth0 += kDepth) {
      const int64_t depth = std::min(kDepth, k - depth0);
      T* const packed_a = scratch<T>(0, row_panels * mr * kDepth);
      T* const packed_b = scratch<T>(1, column_panels * nr * kDepth);
      const int64_t panels = row_panels + column_panels;
      parallel_for(panels, small ? panels : 8, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
          if (p < row_panels) {
            pack(packed_a + p * mr * depth, a + p * mr * a_row + depth0 * a_depth, a_row, a_depth, std::min(mr, m - p * mr), mr, depth);
          } else {
            const int64_t q = p - row_panels, j = column0 + q * nr;
            pack(packed_b + q * nr * depth, b + j * b_column + depth0 * b_depth, b_column, b_depth, std::min(nr, n - j), nr, depth);
          }
        }
      });
      const T scale = depth0 == 0 ? beta : T(1);
      const int64_t tiles_down = divide_up(row_panels, tile_rows), tiles_across = divide_up(column_panels, tile_columns);
      const int64_t tiles = tiles_down * tiles_across;
      parallel_for(tiles, small ? tiles : 1, [&](int64_t begin, int64_t end) {
        alignas(64) T edge[kGemmTile];
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t p0 = tile / tiles_across * tile_rows, q0 = tile % tiles_across * tile_columns;
          for (int64_t p = p0; p < std::min(row_panels, p0 + tile_rows); ++p) {
            for (int64_t q = q0; q < std::min(column_panels, q0 + tile_columns); ++q) {
              const int64_t i = p * mr, j = column0 + q * nr;
              const int64_t height = std::min(mr, m - i), width = std::min(nr, n - j);
              T* const to = c + i * ldc + j;
              if (height == mr && width == nr) {
                kernel.run(depth, packed_a + p * mr * depth, packed_b + q * nr * depth, alpha, scale, to, ldc);
                continue;
              }
              kernel.run(depth, packed_a + p * mr * depth, packed_b + q * nr * depth, alpha, T(0), edge, nr);
              for (int64_t r = 0; r < height; ++r) {
                for (int64_t s = 0; s < width; ++s) {
                  to[r * ldc + s] = scale == T(0) ? edge[r * nr + s] : edge[r * nr + s] + scale * to[r * ldc + s];
                }
              }
            }
          }
        }
      });
    }
  }
}

template void gemm_blocked(bool, bool, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t, float, float*, int64_t);
template void gemm_blocked(bool, bool, int64_t, int64_t, int64_t, double, const double*, int64_t, const double*, int64_t, double, double*,
                           int64_t);

}  // namespace ops
