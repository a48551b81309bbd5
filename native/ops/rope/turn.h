// defines: turn, the rotation of rope.h on a CPU, of one row: heads of 2·half, whose pairs are half apart.
#pragma once
#include <cstdint>

namespace ops {

inline void turn(const float* from, float* to, const float* cos, const float* sin, int64_t heads, int64_t half) {
  for (int64_t h = 0; h < heads; ++h, from += 2 * half, to += 2 * half) {
    for (int64_t l = 0; l < half; ++l) {
      const float a = from[l], b = from[l + half];
      to[l] = a * cos[l] - b * sin[l];
      to[l + half] = b * cos[l] + a * sin[l];
    }
  }
}

}  // namespace ops
