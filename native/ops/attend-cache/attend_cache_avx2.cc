#include "attend_cache_kernel.h"

namespace ops {

void attend_piece_avx2(const AttendPiece& piece) { attend_piece<32>(piece); }

}  // namespace ops
