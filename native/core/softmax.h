// defines: ops::LogSum, what softmax needs of a row.
#pragma once
#include <cstdint>

namespace ops {

// log Σ_j e^x[j] = max + log(sum)
struct LogSum {
  float max;
  double sum;
  double value;
};

LogSum log_sum(const float* x, int64_t n);

}  // namespace ops
