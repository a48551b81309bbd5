// defines: ops::add_column_sums, sums down the columns of a matrix in a fixed order; columns.cuh on the GPU.
#pragma once
#include <vector>

#include "parallel.h"

namespace ops {

// into[j] += Σ_t term(t, j), j < n. add_rows(begin, end, sums) adds rows [begin, end) to sums f32 [n]; it may do other
// things with the rows as well: each is visited once. The pieces are 32 at most, whatever the number of threads.
template <class F>
void add_column_sums(int64_t t, int64_t n, float* into, const F& add_rows) {
  const int64_t grain = std::max<int64_t>(1, (t + 31) / 32), pieces = (t + grain - 1) / grain;
  std::vector<float> partial(pieces * n);
  parallel_for(t, grain, [&](int64_t begin, int64_t end) { add_rows(begin, end, partial.data() + begin / grain * n); });
  for (int64_t j = 0; j < n; ++j) {
    double sum = into[j];
    for (int64_t piece = 0; piece < pieces; ++piece) sum += partial[piece * n + j];
    into[j] = static_cast<float>(sum);
  }
}

}  // namespace ops
