// The search with 32, 16 and 8 sequences in a vector.
#include "fine_kernel.h"
#include "lanes_x86.h"
#include "search_kernel.h"

const ops::trellis::Search* ops::trellis::avx512_searches() {
  static constexpr Search list[] = {search<Lanes32>, search<Lanes16>, search<Lanes8>, {}};
  return list;
}

ops::trellis::FinePass ops::trellis::avx512_fine() { return fine_pass; }
