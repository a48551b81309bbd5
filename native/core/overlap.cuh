// defines: kernels that begin while the one before them in the stream still runs (programmatic dependent launch): what is between two
// small kernels takes as long as they do. What is compiled for less than compute capability 9.0 follows each other as always.
#pragma once
#include <cuda_runtime.h>

namespace ops {

// The kernel before this one may still run until here: nothing that it writes is to be read, nothing that it reads to be written before.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The kernel after this one may begin.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Whether the kernels that the card in use runs do so, and have clusters: both by card and by what they were compiled for.
bool card_overlaps();

// overlap: the kernel waits by itself.
template <class... Parameters, class... Values>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared, cudaStream_t stream, bool overlap, const Values&... values) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &attribute, config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...);
}

}  // namespace ops
