#include "sum_squares.h"

#include <vector>

#include "../../core/parallel.h"

namespace ops {

void sum_squares(const SumSquaresArgs& args) {
  constexpr int64_t kPiece = 1 << 16;
  std::vector<double> sums((args.n + kPiece - 1) / kPiece);
  parallel_for(args.n, kPiece, [&](int64_t begin, int64_t end) {
    double lanes[8] = {};  // side by side, for the vector unit
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
      for (int l = 0; l < 8; ++l) lanes[l] += static_cast<double>(args.x[i + l]) * args.x[i + l];
    }
    for (; i < end; ++i) lanes[0] += static_cast<double>(args.x[i]) * args.x[i];
    double sum = 0;
    for (double lane : lanes) sum += lane;
    sums[begin / kPiece] = sum;
  });
  double sum = 0;
  for (double part : sums) sum += part;
  args.out[0] = sum;
}

}  // namespace ops
