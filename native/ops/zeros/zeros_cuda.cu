#include "zeros.h"

#include "../../core/cuda.cuh"

namespace ops {

void zeros(const ZerosArgs& args) { check(cudaMemsetAsync(args.out, 0, args.bytes, stream())); }

}  // namespace ops
