#include "sum_squares.h"

#include "../../core/cuda.cuh"

namespace ops {

void sum_squares(const SumSquaresArgs& args) {
  sum(
      args.n, [args] __device__(int64_t i) { return static_cast<double>(args.x[i]) * args.x[i]; },
      [args] __device__(double total) { args.out[0] = total; });
}

}  // namespace ops
