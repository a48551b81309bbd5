// defines: what the ops' CUDA hosts and kernels share: the stream, scratch memory, loops over elements, sums in a fixed order.
//
// Everything is enqueued on one stream a device, in order, so memory that an op gives back may serve the next op at once.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "error.h"

namespace ops {

// Throws the sentence for an error of the CUDA runtime; nothing on success.
void check(cudaError_t code);
// After a launch: throws when it was refused.
inline void launched() { check(cudaGetLastError()); }

// The stream of the device whose queue runs the calling op, and what the device has.
cudaStream_t stream();
int multiprocessors();

// Whether the op is part of a recorded program, which is launched again without the host: then it must not look at values.
bool recording();

// Device memory for as long as an op enqueues; free for the next op after that.
void* borrow(size_t bytes);
void give_back(void* data);
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(borrow(count * sizeof(T)))) {}
  ~Scratch() { give_back(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* const data_;
};

// The values on the host: waits for the device, so only for what an op must see to go on (ids to check).
template <class T>
std::vector<T> to_host(const T* data, int64_t count) {
  if (recording()) fail("looks at values on the host, which a recorded program can't");
  std::vector<T> values(count);
  check(cudaMemcpyAsync(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost, stream()));
  check(cudaStreamSynchronize(stream()));
  return values;
}

// Values that `make` gives at the first call with this name; they stay on the device as long as it is open.
const float* constant(const std::string& name, const std::function<std::vector<float>()>& make);

// More than 48 KB of shared memory has to be asked for. Throws when the card has less.
void allow_shared_bytes(const void* kernel, size_t bytes);
template <class... Parameters>
void allow_shared(void (*kernel)(Parameters...), size_t bytes) {
  if (bytes > 48 << 10) allow_shared_bytes(reinterpret_cast<const void*>(kernel), bytes);
}

constexpr int kThreads = 256;

inline int blocks_for(int64_t n, int threads = kThreads) {
  return static_cast<int>(std::clamp<int64_t>((n + threads - 1) / threads, 1, 1 << 20));
}

template <class F>
__global__ void __launch_bounds__(kThreads) each_kernel(int64_t n, F f) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) f(i);
}

// f(i) for i < n, any order: f a __device__ lambda that captures by value.
template <class F>
void each(int64_t n, F f) {
  if (n <= 0) return;
  each_kernel<<<blocks_for(n), kThreads, 0, stream()>>>(n, f);
  launched();
}

// Σ of `value` over the block's threads (a multiple of 32, at most 1024), in the same order always; valid in every thread.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T partial[32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (int warp = 0; warp < (blockDim.x + 31) / 32; ++warp) sum += partial[warp];
  return sum;
}

// The largest `value` over the block's threads; valid in every thread.
template <class T>
__device__ T block_max(T value) {
  __shared__ T partial[32];
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(~0u, value, offset));
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  T most = partial[0];
  for (int warp = 1; warp < (blockDim.x + 31) / 32; ++warp) most = max(most, partial[warp]);
  return most;
}

// Pieces of a sum. A constant, not the card's size: every card adds in the same order.
constexpr int kPieces = 1024;

template <class F>
__global__ void __launch_bounds__(kThreads) sum_kernel(int64_t n, F f, double* partial) {
  double sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += static_cast<int64_t>(kPieces) * kThreads) sum += f(i);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class G>
__global__ void __launch_bounds__(kPieces) finish_sum_kernel(const double* partial, G g) {
  const double sum = block_sum(partial[threadIdx.x]);
  if (threadIdx.x == 0) g(sum);
}

// g(Σ f(i)), i < n: f and g __device__ lambdas; f gives doubles, g runs once.
template <class F, class G>
void sum(int64_t n, F f, G g) {
  Scratch<double> partial(kPieces);
  sum_kernel<<<kPieces, kThreads, 0, stream()>>>(n, f, partial);
  launched();
  finish_sum_kernel<<<1, kPieces, 0, stream()>>>(partial, g);
  launched();
}

}  // namespace ops
