// What the trellis kernels share: the plan of a launch, and a few device functions.
#pragma once
#include <cuda_runtime.h>

#include "trellis_cuda.h"

namespace ops::trellis {

struct Launch {
  const float* z;
  const float* table;
  uint16_t* codes;
  float* values;
  unsigned char* workspace;
  int64_t sequences;
  int T, N, L, KV, V;  // weights and steps of a sequence
  float limit;
  int blocks, multiprocessors;
  cudaStream_t stream;
};

// A kernel family: whether it serves these sizes, and what it needs.
struct Family {
  bool (*serves)(const Launch&, int shared_bytes);
  size_t (*fixed_bytes)(const Launch&);                // workspace used once
  size_t (*block_bytes)(const Launch&);                // workspace of each block
  int (*blocks)(const Launch&);                        // as many as can work at once
  cudaError_t (*run)(const Launch&);
};

extern const Family generic_family, scalar_family, hashed_family;

// Least (cost, index) of a warp; costs are not negative, so that their bits order as they do.
__device__ inline unsigned warp_argmin(unsigned cost, unsigned index) {
  const unsigned least = __reduce_min_sync(~0u, cost);
  return __reduce_min_sync(~0u, cost == least ? index : ~0u);
}

}  // namespace ops::trellis
