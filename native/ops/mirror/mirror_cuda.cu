#include "mirror.h"

#include "mirror.cuh"

namespace ops {

void mirror(const MirrorArgs& args) { mirror_upper(args.h, args.n, args.factor); }

}  // namespace ops
