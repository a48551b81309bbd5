#include "../../core/cuda.cuh"
#include "golden_section.h"

namespace ops {

void golden_section(const GoldenSectionArgs& args) {
  each(1, [args] __device__(int64_t) { golden_section_step(args); });
}

}  // namespace ops
