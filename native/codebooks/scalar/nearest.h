// codes[i] = the index of the level nearest to z[i], the lower one at equal distance; values[i] = that level. NaN takes level 0.
// Levels ascend. Cost: one comparison a level and weight.
#pragma once
#include <cstdint>

#include "../../core/args.h"

namespace ops {

struct NearestArgs {
  const float* z;       // [size]
  const float* levels;  // [count]
  uint16_t* codes;      // [size]
  float* values;        // [size]
  int64_t size, count;
  template <class Visitor> void fields(Visitor& v) {
    v("z", z); v("levels", levels); v("codes", codes); v("values", values); v("size", size); v("count", count);
  }
};
void nearest(const NearestArgs& args);

}  // namespace ops
