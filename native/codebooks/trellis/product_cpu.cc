#include "product.h"

#include <algorithm>

#include "../../core/parallel.h"
#include "product_code.h"

namespace ops {

void trellis_arrange(const TrellisArrangeArgs& a) {
  std::copy_n(reinterpret_cast<const uint8_t*>(a.packed), a.rows * a.columns * a.K / 8, a.arranged);
}

void trellis_product(const TrellisProductArgs& a) {
  const auto code = static_cast<ProductCode>(a.code);
  const int K = static_cast<int>(a.K), V = code == ProductCode::hyb ? 2 : 1;
  const int64_t across = a.columns / 16;
  const auto* packed = reinterpret_cast<const int16_t*>(a.arranged);
  parallel_for(a.rows / 16, 1, [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      for (int row = 0; row < 16; ++row) {
        double sums[16] = {};
        for (int64_t c = 0; c < across; ++c) {
          const int16_t* words = packed + (strip * across + c) * 16 * K;
          for (int column = 0; column < 16; column += V) {
            const uint32_t s = product::state_at(words, product::place(row, column, a.tensor_core) * K, K);
            const product::Weights w = product::value(code, s, a.entries);
            for (int64_t b = 0; b < a.t; ++b) {
              const float* x = a.x + b * a.columns + c * 16 + column;
              sums[b] += double{w.first} * x[0] + (V == 2 ? double{w.second} * x[1] : 0);
            }
          }
        }
        for (int64_t b = 0; b < a.t; ++b) a.y[b * a.rows + strip * 16 + row] = static_cast<float>(sums[b]);
      }
    }
  });
}

}  // namespace ops
