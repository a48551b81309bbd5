// Trellis search on a GPU, over device pointers and a stream: what trellis_encode is in the CUDA backend.
//
//   z       f32 [m, Ty]         tile r is rows [Tx·r, Tx·(r+1)), read row-major: one sequence of Tx·Ty weights
//   table   f32 [2^L, V]        value of each state, exact in fp16
//   codes   u16 [m/Tx, steps]   states; steps = Tx·Ty/V; s_t = (s_{t-1} << KV | new bits) mod 2^L, also from last to first
//   values  f32 [m, Ty]         table[codes], in z's places
//
// Exhaustive Viterbi search, tail-biting by two passes (QTIP, arXiv:2406.11235, algorithm 4). Three kernels, by code:
//   hashed   the value of s depends on (s(s+1) >> 6) mod 1024 alone (HYB, Q <= 9); L = 16, V = 2, KV = 4, 6, 8
//   scalar   any table; L = 16, V = 1, KV = 2, 3, 4, a device with 194 KiB of shared memory a block
//   generic  everything else: L <= 16, KV <= 8, V = 1, 2, 4
//
// cost: 2^(L+1)/V state updates a weight. Kernels take sequences in pairs, a 16-bit cost each in a 32-bit register.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace ops {

enum class TrellisKernel { automatic, generic, scalar, hashed };

struct TrellisEncodeCuda {
  const float* z;
  const float* table;
  uint16_t* codes;
  float* values;
  int64_t m, Tx, Ty, L, KV, V;
  bool hashed;       // the table has the structure that the hashed kernel needs
  float limit;       // targets beyond it count as it; errors are told apart up to a share of limit². Twice the largest |component|
  void* workspace;   // device memory, 256-byte aligned
  size_t workspace_bytes;
  cudaStream_t stream;
  TrellisKernel kernel = TrellisKernel::automatic;
};

// Bytes of workspace that let the whole card work on `m/Tx` sequences. Any amount from one block's on will do.
size_t trellis_encode_workspace(const TrellisEncodeCuda& args);

// Enqueues the search. Throws std::invalid_argument where sizes don't fit, std::runtime_error where the launch fails.
void trellis_encode_cuda(const TrellisEncodeCuda& args);

}  // namespace ops
