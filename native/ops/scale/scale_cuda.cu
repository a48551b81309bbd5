#include "scale.h"

#include "../../core/cuda.cuh"

namespace ops {

void scale(const ScaleArgs& args) {
  each(args.m * args.n, [args] __device__(int64_t e) {
    const int64_t i = e / args.n, j = e % args.n;
    const float factor = static_cast<float>(args.by ? args.factor * *args.by : args.factor);
    const float row = args.rows ? args.rows[i] * factor : factor;
    args.out[e] = args.columns ? args.x[e] * row * args.columns[j] : args.x[e] * row;
  });
}

}  // namespace ops
