#include "count_non_finite.h"

#include <vector>

#include "../../core/error.h"
#include "../../core/parallel.h"

namespace ops {

namespace {

template <class T>
void count(const CountNonFiniteArgs& args, T exponent) {
  constexpr int64_t kPiece = 1 << 18;
  const T* x = reinterpret_cast<const T*>(args.x);
  std::vector<int64_t> counts((args.n + kPiece - 1) / kPiece);
  parallel_for(args.n, kPiece, [&](int64_t begin, int64_t end) {
    int64_t found = 0;
    for (int64_t i = begin; i < end; ++i) found += (x[i] & exponent) == exponent;
    counts[begin / kPiece] = found;
  });
  int64_t sum = 0;
  for (int64_t part : counts) sum += part;
  args.out[0] = static_cast<double>(sum);
}

}  // namespace

void count_non_finite(const CountNonFiniteArgs& args) {
  switch (args.size) {
    case 2: return count<uint16_t>(args, static_cast<uint16_t>(args.exponent));
    case 4: return count<uint32_t>(args, static_cast<uint32_t>(args.exponent));
    case 8: return count<uint64_t>(args, static_cast<uint64_t>(args.exponent) << 32);
    default: fail("elements have %ld bytes; 2, 4 and 8 are known", static_cast<long>(args.size));
  }
}

}  // namespace ops
