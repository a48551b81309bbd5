#include "nearest.h"

#include "../../core/cuda.cuh"

namespace ops {

void nearest(const NearestArgs& args) {
  each(args.size, [args] __device__(int64_t i) {
    uint16_t code = 0;
    for (int64_t k = 0; k + 1 < args.count; ++k) {
      code += static_cast<double>(args.z[i]) * 2 > static_cast<double>(args.levels[k]) + args.levels[k + 1];
    }
    args.codes[i] = code;
    args.values[i] = args.levels[code];
  });
}

}  // namespace ops
