#include "golden_section.h"

namespace ops {

void golden_section(const GoldenSectionArgs& args) { golden_section_step(args); }

}  // namespace ops
