// What benchmarks of single kernels share: numbers that are the same at every run, buffers, and replays of a graph.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

inline uint32_t hashed(uint64_t i) {
  uint64_t z = (i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9, z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return static_cast<uint32_t>((z ^ z >> 31) >> 16);
}
inline double uniform(uint64_t i) { return (hashed(i) + 0.5) / 4294967296.0; }
inline double gaussian(uint64_t i) { return std::sqrt(-2 * std::log(uniform(2 * i))) * std::cos(2 * M_PI * uniform(2 * i + 1)); }

template <class T>
T* upload(const std::vector<T>& from) {
  T* at;
  check(cudaMalloc(&at, from.size() * sizeof(T)), "cudaMalloc");
  check(cudaMemcpy(at, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return at;
}

// Microseconds of one of `nodes`, by replays of a graph of them: the median of ten, after two.
template <class F>
float microseconds(cudaStream_t stream, int nodes, F enqueue) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < nodes; ++i) enqueue(i);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&replay, graph, 0), "graph");
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(replay, stream);
    cudaEventRecord(end, stream);
    check(cudaEventSynchronize(end), "replay");
    float ms;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 1) times.push_back(ms * 1000 / nodes);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(replay), cudaGraphDestroy(graph);
  return times[times.size() / 2];
}
