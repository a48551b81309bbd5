#include "attend_cache_kernel.h"

namespace ops {

void attend_piece_avx512(const AttendPiece& piece) { attend_piece<64>(piece); }

}  // namespace ops
