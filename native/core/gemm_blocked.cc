#include "gemm_blocked.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "gemm.h"
#include "parallel.h"

namespace ops {

namespace {

constexpr int64_t kDepth = 256;      // of a panel: B's part of a tile, 256 × 256 (256 KB), stays in the L2
constexpr int64_t kColumns = 4096;   // of B packed at a time: bounds the packing memory
constexpr int64_t kTile = 256;       // rows and columns of C, about, in one piece of work
constexpr int64_t kLeastTile = 64;   // and where C is small: below it a tile's panels are read too often
constexpr int64_t kNarrow = 64;      // columns of C up to which packing A costs more than it saves
constexpr int64_t kSmall = 1 << 19;  // multiply-adds below which a second thread costs more than it saves

typedef float Quad __attribute__((vector_size(16)));
typedef float QuadMemory __attribute__((vector_size(16), aligned(4), may_alias));

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Grow-only memory for packed panels, kept from call to call by the calling thread.
float* scratch(int slot, int64_t count) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> memory[2];
  thread_local int64_t sizes[2] = {0, 0};
  if (sizes[slot] < count) {
    memory[slot].reset(static_cast<float*>(std::aligned_alloc(64, divide_up(count * sizeof(float), 64) * 64)));
    sizes[slot] = memory[slot] ? count : 0;
    if (!memory[slot]) throw std::bad_alloc();
  }
  return memory[slot].get();
}

// packed[l·width + i … +4) = x[(i … i+4)·step + l] for l … l+4: a 4 × 4 transpose in registers.
void pack_quad(float* packed, const float* x, int64_t step, int64_t width) {
  Quad r[4];
  for (int i = 0; i < 4; ++i) r[i] = *reinterpret_cast<const QuadMemory*>(x + i * step);
  const Quad a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const Quad c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  *reinterpret_cast<QuadMemory*>(packed) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  *reinterpret_cast<QuadMemory*>(packed + width) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  *reinterpret_cast<QuadMemory*>(packed + 2 * width) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  *reinterpret_cast<QuadMemory*>(packed + 3 * width) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// packed[l·width + i] = x[i·step + l·stride], i < count, l < depth; zeros for count ≤ i < width. step or stride is 1.
void pack(float* packed, const float* x, int64_t step, int64_t stride, int64_t count, int64_t width, int64_t depth) {
  if (count < width) std::memset(packed, 0, depth * width * sizeof(float));
  if (step == 1) {
    for (int64_t l = 0; l < depth; ++l) {
      int64_t i = 0;
      for (; i + 4 <= count; i += 4) {
        *reinterpret_cast<QuadMemory*>(packed + l * width + i) = *reinterpret_cast<const QuadMemory*>(x + l * stride + i);
      }
      for (; i < count; ++i) packed[l * width + i] = x[l * stride + i];
    }
    return;
  }
  for (int64_t l0 = 0; l0 < depth; l0 += 16) {  // a cache line of each row at a time
    const int64_t l1 = std::min(depth, l0 + 16), whole = l0 + (l1 - l0) / 4 * 4;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      for (int64_t l = l0; l < whole; l += 4) pack_quad(packed + l * width + i, x + i * step + l, step, width);
      for (int64_t l = whole; l < l1; ++l) {
        for (int64_t e = i; e < i + 4; ++e) packed[l * width + e] = x[e * step + l];
      }
    }
    for (; i < count; ++i) {
      for (int64_t l = l0; l < l1; ++l) packed[l * width + i] = x[i * step + l];
    }
  }
}

// to = part + scale·to for the part [height, width] of a tile [·, stride].
void store(const float* part, int64_t stride, int64_t height, int64_t width, float scale, float* to, int64_t ldc) {
  for (int64_t i = 0; i < height; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      to[i * ldc + j] = scale == 0.f ? part[i * stride + j] : part[i * stride + j] + scale * to[i * ldc + j];
    }
  }
}

// A product with few columns, A as it lies in memory; b is packed whole: [panel][depth][columns of the panel].
void narrow(const GemmKernel& kernel, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
            int64_t b_column, int64_t b_depth, float beta, float* c, int64_t ldc) {
  const int64_t nr = kernel.nr, rows = kernel.rows, panels = divide_up(n, nr);
  const auto panel_width = [&](int64_t q) { return n - q * nr <= nr / 2 ? nr / 2 : nr; };
  float* const packed = scratch(1, panels * nr * kDepth);
  for (int64_t depth0 = 0; depth0 < std::max<int64_t>(k, 1); depth0 += kDepth) {
    const int64_t depth = std::min(kDepth, k - depth0);
    const float scale = depth0 == 0 ? beta : 1.f;
    for (int64_t q = 0; q < panels; ++q) {
      pack(packed + q * nr * depth, b + q * nr * b_column + depth0 * b_depth, b_column, b_depth, std::min(nr, n - q * nr), panel_width(q),
           depth);
    }
    parallel_for(divide_up(m, rows), m * n * depth < kSmall ? m : std::max<int64_t>(1, kTile / rows), [&](int64_t begin, int64_t end) {
      alignas(64) float tile[kGemmTile];
      float tail[8 * kDepth] = {};
      for (int64_t p = begin; p < end; ++p) {
        const int64_t i = p * rows, height = std::min(rows, m - i);
        const float* from = a + i * lda + depth0;
        int64_t step = lda;
        if (height < rows) {  // the last rows: with zeros below
          for (int64_t r = 0; r < height; ++r) std::copy_n(from + r * lda, depth, tail + r * depth);
          from = tail;
          step = depth;
        }
        for (int64_t q = 0; q < panels; ++q) {
          const int64_t j = q * nr, width = std::min(nr, n - j), full = panel_width(q);
          const auto run = full == nr ? kernel.direct : kernel.half;
          float* const to = c + i * ldc + j;
          if (height == rows && width == full) {
            run(depth, from, step, packed + q * nr * depth, alpha, scale, to, ldc);
          } else {
            run(depth, from, step, packed + q * nr * depth, alpha, 0, tile, full);
            store(tile, full, height, width, scale, to, ldc);
          }
        }
      }
    });
  }
}

template <class T>
void few_rows(const GemmKernel& kernel, void (*dots)(int64_t, const float*, int64_t, int, const T*, float*), int64_t m, int64_t n, int64_t k, float alpha,
              const float* x, int64_t ldx, const T* w, int64_t ldw, float beta, float* y, int64_t ldy) {
  std::vector<float> moved;
  if constexpr (sizeof(T) == 2) {
    moved.resize(m * k);
    for (int64_t i = 0; i < m; ++i) {
      const int64_t width = 2 * kernel.pairs, whole = k / width * width;
      for (int64_t l = 0; l < k; ++l) {
        const int64_t e = l % width;
        moved[i * k + (l < whole ? l - e + e % 2 * kernel.pairs + e / 2 : l)] = x[i * ldx + l];
      }
    }
    x = moved.data(), ldx = k;
  }
  // Long enough to be worth a thread, short enough for all to end together.
  const int64_t grain = m * n * k < kSmall ? n : std::max<int64_t>(1, (int64_t{1} << 19) / std::max<int64_t>(k, 1));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    float sums[kFewRows];
    for (int64_t j = begin; j < end; ++j) {
      dots(k, x, ldx, static_cast<int>(m), w + j * ldw, sums);
      for (int64_t i = 0; i < m; ++i) y[i * ldy + j] = beta == 0.f ? alpha * sums[i] : alpha * sums[i] + beta * y[i * ldy + j];
    }
  });
}

}  // namespace

void gemm_few_rows(int64_t m, int64_t n, int64_t k, float alpha, const float* x, int64_t ldx, const float* w, int64_t ldw, float beta, float* y,
                   int64_t ldy) {
  const GemmKernel kernel = choose_gemm_kernel();
  few_rows(kernel, kernel.dots, m, n, k, alpha, x, ldx, w, ldw, beta, y, ldy);
}

void gemm_few_rows(int64_t m, int64_t n, int64_t k, float alpha, const float* x, int64_t ldx, const uint16_t* w, int64_t ldw, float beta,
                   float* y, int64_t ldy) {
  const GemmKernel kernel = choose_gemm_kernel();
  few_rows(kernel, kernel.dots_bf16, m, n, k, alpha, x, ldx, w, ldw, beta, y, ldy);
}

GemmKernel choose_gemm_kernel() {
#if defined(__x86_64__)
  if (context().level == Level::avx512) return gemm_kernel_avx512();
  if (context().level == Level::avx2) return gemm_kernel_avx2();
#endif
  return gemm_kernel_portable();
}

void gemm_blocked(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                  const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const GemmKernel kernel = choose_gemm_kernel();
  const int64_t mr = kernel.mr, nr = kernel.nr;
  const int64_t a_row = transpose_a ? 1 : lda, a_depth = transpose_a ? lda : 1;
  const int64_t b_column = transpose_b ? ldb : 1, b_depth = transpose_b ? 1 : ldb;
  if (m <= kFewRows && !transpose_a && transpose_b) return gemm_few_rows(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  if (n <= kNarrow && !transpose_a) return narrow(kernel, m, n, k, alpha, a, lda, b, b_column, b_depth, beta, c, ldc);

  const bool small = m * n * k < kSmall;
  const int threads = context().pool ? context().pool->threads() : 1;
  const int64_t row_panels = divide_up(m, mr);
  for (int64_t column0 = 0; column0 < n; column0 += kColumns) {
    const int64_t columns = std::min(kColumns, n - column0), column_panels = divide_up(columns, nr);
    // Every element of C is summed in the same order whatever the tiles, so they may depend on the number of threads.
    int64_t side = kTile;
    while (side > kLeastTile && divide_up(m, side) * divide_up(columns, side) < 4 * threads) side /= 2;
    const int64_t tile_rows = divide_up(side, mr), tile_columns = divide_up(side, nr);  // in panels
    const int64_t tiles_across = divide_up(column_panels, tile_columns), tiles = divide_up(row_panels, tile_rows) * tiles_across;
    for (int64_t depth0 = 0; depth0 < std::max<int64_t>(k, 1); depth0 += kDepth) {
      const int64_t depth = std::min(kDepth, k - depth0);
      float* const packed_a = scratch(0, row_panels * mr * kDepth);
      float* const packed_b = scratch(1, column_panels * nr * kDepth);
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
      const float scale = depth0 == 0 ? beta : 1.f;
      parallel_for(tiles, small ? tiles : 1, [&](int64_t begin, int64_t end) {
        alignas(64) float edge[kGemmTile];
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t p0 = tile / tiles_across * tile_rows, q0 = tile % tiles_across * tile_columns;
          for (int64_t p = p0; p < std::min(row_panels, p0 + tile_rows); ++p) {
            for (int64_t q = q0; q < std::min(column_panels, q0 + tile_columns); ++q) {
              const int64_t i = p * mr, j = column0 + q * nr, height = std::min(mr, m - i), width = std::min(nr, n - j);
              const float *left = packed_a + p * mr * depth, *right = packed_b + q * nr * depth;
              float* const to = c + i * ldc + j;
              if (height == mr && width == nr) {
                kernel.packed(depth, left, right, alpha, scale, to, ldc);
              } else {
                kernel.packed(depth, left, right, alpha, 0, edge, nr);
                store(edge, nr, height, width, scale, to, ldc);
              }
            }
          }
        }
      });
    }
  }
}

}  // namespace ops
