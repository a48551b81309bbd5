// defines: PIPE_BOTH, before functions that host and device have; ordered, numbers as whole ones that are ordered as they are.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define PIPE_BOTH __host__ __device__
#else
#define PIPE_BOTH
#endif

namespace ops {

// −0 below 0; a NaN beyond both ends, by its sign.
PIPE_BOTH inline uint32_t ordered(float z) {
  uint32_t bits;
  memcpy(&bits, &z, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace ops
