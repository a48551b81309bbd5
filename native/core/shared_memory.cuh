// defines: ops::most_shared, bytes of shared memory that a block can have on the card in use.
#pragma once
#include "cuda.cuh"

namespace ops {

inline size_t most_shared() {
  int device, bytes;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return static_cast<size_t>(bytes);
}

}  // namespace ops
