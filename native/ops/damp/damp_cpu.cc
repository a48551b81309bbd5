#include "damp.h"

#include <cstring>

#include "../../core/parallel.h"

namespace ops {

void damp(const DampArgs& args) {
  const int64_t n = args.n;
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += args.h[i * n + i];
  mean /= static_cast<double>(n);
  parallel_for(n, std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(n, 1)), [&](int64_t begin, int64_t end) {
    if (args.out != args.h) std::memcpy(args.out + begin * n, args.h + begin * n, (end - begin) * n * sizeof(float));
    for (int64_t i = begin; i < end; ++i) args.out[i * n + i] = static_cast<float>(args.h[i * n + i] + args.damp * mean);
  });
}

}  // namespace ops
