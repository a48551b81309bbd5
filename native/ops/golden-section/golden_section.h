// One step of golden section, on the device: who searches need not wait for what was measured.
//
//   the least f(s) = sum(s)/s², low ≤ s ≤ high        (√5 − 1)/2 of the interval is left by each step after the second
//
//   search   f64 [7]  low, high, left, right (low < left < right < high), f(left), f(right), 1 where `point` is right, else 0
//   sum      f64 [1]  at `point`; null at step 0, which begins
//   point    f64 [1]  → where to measure next; with `last`, the better one of left and right, times √max(1 − shrink·f, 1/4) of its f
#pragma once
#include <algorithm>
#include <cmath>

#include "../../core/args.h"

namespace ops {

struct GoldenSectionArgs {
  double* search;     // [7]
  const double* sum;  // [1] or null
  double* point;      // [1]
  double low, high;   // of step 0
  double shrink;      // of the last
  int64_t step;
  bool last;
  template <class V>
  void fields(V& v) {
    v("search", search), v("sum", sum, optional), v("point", point), v("low", low), v("high", high), v("shrink", shrink);
    v("step", step), v("last", last);
  }
};

void golden_section(const GoldenSectionArgs& args);

// The same for every backend.
constexpr void golden_section_step(const GoldenSectionArgs& args) {
  constexpr double kGolden = 0.6180339887498949;
  double* const search = args.search;
  double &low = search[0], &high = search[1], &left = search[2], &right = search[3], &at_left = search[4], &at_right = search[5], &side = search[6];
  if (args.step == 0) {
    low = args.low, high = args.high;
    left = high - kGolden * (high - low), right = low + kGolden * (high - low);
    side = 0;
  } else {
    const double value = *args.sum / (*args.point * *args.point);
    (side == 0 ? at_left : at_right) = value;
    if (args.step == 1) {
      side = 1;
    } else if (args.last) {
      side = at_left < at_right ? 0 : 1;
    } else if (at_left < at_right) {
      high = right, right = left, at_right = at_left, side = 0;
      left = high - kGolden * (high - low);
    } else {
      low = left, left = right, at_left = at_right, side = 1;
      right = low + kGolden * (high - low);
    }
  }
  *args.point = side == 0 ? left : right;
  if (args.step > 1 && args.last) *args.point *= std::sqrt(std::max(0.25, 1 - args.shrink * (side == 0 ? at_left : at_right)));
}

}  // namespace ops
