// The search with 16 and 8 sequences in a vector.
#include "fine_kernel.h"
#include "lanes_x86.h"
#include "search_kernel.h"

const ops::trellis::Search* ops::trellis::avx2_searches() {
  static constexpr Search list[] = {search<Lanes16>, search<Lanes8>, {}};
  return list;
}

ops::trellis::FinePass ops::trellis::avx2_fine() { return fine_pass; }
