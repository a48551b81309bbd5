#include "hadamard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "../../core/gemm.h"
#include "../../core/parallel.h"
#include "hadamard_kernel.h"
#include "hadamard_matrix.h"

namespace ops {

namespace {

HadamardKernel hadamard_kernel() {
#if defined(__x86_64__)
  if (context().level == Level::avx512) return hadamard_kernel_avx512();
  if (context().level == Level::avx2) return hadamard_kernel_avx2();
#endif
  return {rows<4, 8>, stages<4, 8>, strip<4>};
}

// Copies a run whose length is most often a small power of two: as one move then, and not as a call of memmove.
void copy_run(const float* from, int64_t n, float* to) {
  if (n == 2) std::memcpy(to, from, 8);
  else if (n == 4) std::memcpy(to, from, 16);
  else if (n == 8) std::memcpy(to, from, 32);
  else if (n == 16) std::memcpy(to, from, 64);
  else if (n == 32) std::memcpy(to, from, 128);
  else std::memcpy(to, from, n * sizeof(float));
}

// y[r, :] = Σ_k mix[r, k]·z[k, :], the factor M of H, by the GEMM's micro-kernel. mix is M (inverse) or Mᵀ.
class Mixer {
 public:
  Mixer(int64_t order, bool inverse) : order_(order), kernel_(choose_gemm_kernel()), panels_((order + kernel_.mr - 1) / kernel_.mr) {
    const std::vector<float> matrix = hadamard_matrix(order);
    packed_.resize(panels_ * kernel_.mr * order);
    for (int64_t p = 0; p < panels_; ++p) {
      for (int64_t k = 0; k < order; ++k) {
        for (int64_t i = 0; i < kernel_.mr; ++i) {
          const int64_t r = p * kernel_.mr + i;
          if (r < order) packed_[(p * order + k) * kernel_.mr + i] = inverse ? matrix[r * order + k] : matrix[k * order + r];
        }
      }
    }
  }

  // z [order, columns], contiguous. Calls emit(r, j, width, values) with y[r, j … j+width) for all of y, from any thread.
  template <class F>
  void operator()(const float* z, int64_t columns, const F& emit) const {
    const int64_t mr = kernel_.mr, nr = kernel_.nr;
    // A row alone, as decoding has it, is shared by threads here; several are shared by the caller.
    parallel_for(columns, nr, [&](int64_t j, int64_t end) {
      thread_local std::vector<float> panel;
      panel.resize(order_ * nr);
      alignas(64) float tile[kGemmTile];
      const int64_t width = end - j;
      for (int64_t k = 0; k < order_; ++k) {
        copy_run(z + k * columns + j, width, panel.data() + k * nr);
        std::fill_n(panel.data() + k * nr + width, nr - width, 0.f);
      }
      for (int64_t p = 0; p < panels_; ++p) {
        kernel_.packed(order_, packed_.data() + p * mr * order_, panel.data(), 1, 0, tile, nr);
        for (int64_t i = 0; i < std::min(mr, order_ - p * mr); ++i) emit(p * mr + i, j, width, tile + i * nr);
      }
    });
  }

 private:
  int64_t order_;
  GemmKernel kernel_;
  int64_t panels_;
  std::vector<float> packed_;
};

// Made once: a matrix of order 172 takes ten times as long to make as a row takes to be transformed, and decoding transforms rows one at a time.
const Mixer& mixer(int64_t order, bool inverse) {
  thread_local std::map<std::tuple<int64_t, bool, Level>, Mixer> made;  // of the queue that runs ops here
  return made.try_emplace({order, inverse, context().level}, order, inverse).first->second;
}

// Transforms each run of `block` elements of a row.
void right(const HadamardArgs& args, const HadamardKernel& kernel, float norm) {
  const auto& [x, signs, out, m, n, block, factor, left, inverse] = args;
  const int64_t width = block / factor;
  const float* const before = inverse ? nullptr : signs;
  const float* const after = inverse ? signs : nullptr;
  const int64_t grain = std::max<int64_t>(1, (1 << 16) / n);
  if (factor == 1) {
    return parallel_for(m, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        kernel.rows(x + i * n, before, norm, out + i * n, n, block);
        if (after) kernel.rows(out + i * n, after, 1, out + i * n, n, 1);
      }
    });
  }
  const Mixer& mix = mixer(factor, inverse);
  parallel_for(m, grain, [&](int64_t begin, int64_t end) {
    // Several blocks [factor, width] side by side, as [factor, group, width], fill the micro-kernel's columns.
    const int64_t total = (end - begin) * (n / block);
    const int64_t group = std::min(total, std::max<int64_t>(1, 64 / width));
    std::vector<float> row(block), z(group * block);
    for (int64_t g = 0; g < total; g += group) {
      const int64_t count = std::min(group, total - g), first = begin * n + g * block;  // the blocks follow each other in memory
      for (int64_t b = 0; b < count; ++b) {
        const int64_t at = first + b * block;
        kernel.rows(x + at, before ? before + at % n : nullptr, norm, row.data(), block, width);
        for (int64_t k = 0; k < factor; ++k) copy_run(row.data() + k * width, width, z.data() + (k * count + b) * width);
      }
      mix(z.data(), count * width, [&](int64_t r, int64_t j, int64_t columns, const float* values) {
        for (int64_t c = 0; c < columns;) {
          const int64_t b = (j + c) / width, inside = (j + c) % width, run = std::min(columns - c, width - inside);
          const int64_t at = first + b * block + r * width + inside;
          if (after) kernel.rows(values + c, after + at % n, 1, out + at, run, 1);
          else copy_run(values + c, run, out + at);
          c += run;
        }
      });
    }
  });
}

// Transforms each run of `block` elements of a column: strips of columns are gathered, so that all vectors run along rows.
void left(const HadamardArgs& args, const HadamardKernel& kernel, float norm) {
  const auto& [x, signs, out, m, n, block, factor, is_left, inverse] = args;
  const int64_t strip = block <= 4096 ? 32 : 16;  // columns: the strip stays in an L2 of 512 KB to 1 MB
  const int64_t strips = (n + strip - 1) / strip, width = block / factor;
  const Mixer* const mix = factor > 1 ? &mixer(factor, inverse) : nullptr;
  parallel_for(m / block * strips, std::max<int64_t>(1, (1 << 16) / (block * strip)), [&](int64_t begin, int64_t end) {
    std::vector<float> z(block * strip);
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t top = piece / strips * block, j = piece % strips * strip, columns = std::min(strip, n - j);
      const float* const before = inverse || !signs ? nullptr : signs + top;
      const float* const after = inverse && signs ? signs + top : nullptr;
      kernel.strip(x + top * n + j, n, before, norm, z.data(), strip, block, columns);
      kernel.stages(z.data(), block * strip, strip, width * strip);
      float* const to = out + top * n + j;
      if (!mix) {
        kernel.strip(z.data(), strip, after, 1, to, n, block, columns);
        continue;
      }
      (*mix)(z.data(), width * strip, [&](int64_t r, int64_t c, int64_t count, const float* values) {
        // The micro-kernel's width and the strip's are powers of two: either holds whole multiples of the other.
        const int64_t i = r * width + c / strip, inside = c % strip, run = std::min({strip, count, columns - inside});
        if (run > 0) kernel.strip(values, strip, after ? after + i : nullptr, 1, to + i * n + inside, n, std::max<int64_t>(1, count / strip), run);
      });
    }
  });
}

}  // namespace

void hadamard(const HadamardArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  const float norm = static_cast<float>(1 / std::sqrt(static_cast<double>(args.block)));
  if (args.left) left(args, hadamard_kernel(), norm);
  else right(args, hadamard_kernel(), norm);
}

}  // namespace ops
