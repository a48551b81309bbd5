#include "zeros.h"

#include <cstring>

#include "../../core/parallel.h"

namespace ops {

void zeros(const ZerosArgs& args) {
  parallel_for(args.bytes, 1 << 20, [&](int64_t begin, int64_t end) { std::memset(args.out + begin, 0, end - begin); });
}

}  // namespace ops
