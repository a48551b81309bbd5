// defines: clusters of blocks that write to each other's shared memory, on cards since compute capability 9.0.
#pragma once
#include "overlap.cuh"

namespace ops {

// All threads of a cluster's blocks, in turns: what was written before arriving, also to other blocks, is seen after waiting.
__device__ inline void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
// The same without the first half of that: nothing was written yet but an inbox.
__device__ inline void cluster_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The place of `here`, of the own shared memory, in the one of the cluster's block `rank`.
__device__ inline uint32_t place_at(const void* here, int rank) {
  uint32_t there = 0;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(here))), "r"(rank));
#endif
  return there;
}
__device__ inline void push(uint32_t there, float v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(v) : "memory");
#endif
}

// What blocks of a cluster push into one's shared memory, by bytes: nobody waits for all, as at a barrier, but for what is his.
struct Inbox {
  uint64_t state;
  // Both by the same thread; then all blocks begin and wait before the first push.
  __device__ void open() {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(&state))) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }
  __device__ void expect(uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    const uint32_t here = static_cast<uint32_t>(__cvta_generic_to_shared(&state));
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(here), "r"(bytes) : "memory");
#endif
  }
  __device__ void wait() {
#if __CUDA_ARCH__ >= 900
    const uint32_t here = static_cast<uint32_t>(__cvta_generic_to_shared(&state));
    uint32_t done = 0;
    while (!done) {
      asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                   : "=r"(done) : "r"(here) : "memory");
    }
#endif
  }
};
// To a place of a block, and its inbox's place there.
__device__ inline void push(uint32_t there, float v, uint32_t inbox) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(there), "f"(v), "r"(inbox) : "memory");
#endif
}
__device__ inline void push(uint32_t there, float2 v, uint32_t inbox) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(there), "f"(v.x), "f"(v.y), "r"(inbox) : "memory");
#endif
}
__device__ inline void push(uint32_t there, float4 v, uint32_t inbox) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
               ::"r"(there), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(inbox) : "memory");
#endif
}

// As launch of overlap.cuh, blocks along x in clusters of `cluster`.
template <class... Parameters, class... Values>
cudaError_t launch_clusters(void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared, cudaStream_t stream, bool overlap, unsigned cluster,
                            const Values&... values) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = cluster, attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = attributes, config.numAttrs = overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...);
}

}  // namespace ops
