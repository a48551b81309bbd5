#include "column_dots.h"

#include "../../core/columns.cuh"

namespace ops {

void column_dots(const ColumnDotsArgs& args) {
  add_column_sums(args.t, args.n, args.into, [args] __device__(int64_t i, int64_t j) {
    const float x = args.x[i * args.n + j];
    return args.y ? x * args.y[i * args.n + j] : x;
  });
}

}  // namespace ops
