#include "rope.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

void rope(const RopeArgs& args) {
  const std::vector<int32_t> positions = to_host(args.positions, args.t);
  for (int64_t i = 0; i < args.t; ++i) {
    if (positions[i] < 0 || positions[i] >= args.length) {
      fail("row %lld is at position %d, and there are cosines for %lld", (long long)i, positions[i], (long long)args.length);
    }
  }
  // One thread a pair: it reads both halves before it writes either, so out may be x.
  each(args.t * args.heads * args.half, [args] __device__(int64_t e) {
    const int64_t l = e % args.half, head = e / args.half;
    const int64_t position = args.positions[head / args.heads];
    const float c = args.cos[position * args.half + l], s = args.sin[position * args.half + l];
    const int64_t low = head * 2 * args.half + l, high = low + args.half;
    const float a = args.x[low], b = args.x[high];
    args.out[low] = a * c - b * s;
    args.out[high] = b * c + a * s;
  });
}

}  // namespace ops
