#include "count_non_finite.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"

namespace ops {

namespace {

template <class T>
void count(const CountNonFiniteArgs& args, T exponent) {
  const T* x = reinterpret_cast<const T*>(args.x);
  sum(
      args.n, [x, exponent] __device__(int64_t i) { return static_cast<T>(x[i] & exponent) == exponent ? 1.0 : 0.0; },
      [args] __device__(double total) { args.out[0] = total; });
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
