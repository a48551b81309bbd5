// What benchmarks of single kernels share: numbers that are the same at every run, buffers, replays of a graph, and cycles by a kernel's own clock.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
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

// Cycles of a block, on average over the blocks, in the run that took least. launch(cycles) starts a block a multiprocessor, each of which leaves its own.
template <class F>
double least_cycles(int sm, int runs, F launch) {
  int64_t* const d_cycles = upload(std::vector<int64_t>(sm));
  std::vector<int64_t> each(sm);
  double best = 1e30;
  for (int run = 0; run < runs; ++run) {
    launch(d_cycles);
    check(cudaDeviceSynchronize(), "launch");
    check(cudaMemcpy(each.data(), d_cycles, sm * sizeof(int64_t), cudaMemcpyDeviceToHost), "copy");
    double sum = 0;
    for (const int64_t c : each) sum += static_cast<double>(c);
    best = std::min(best, sum / sm);
  }
  cudaFree(d_cycles);
  return best;
}

// A benchmark's whole output and exit status: the card, and what print(sm) prints as rows.
template <class F>
int print_rows(F print) {
  try {
    cudaDeviceProp card;
    check(cudaGetDeviceProperties(&card, 0), "device");
    std::printf("{\"gpu\": \"%s\", \"rows\": [\n", card.name);
    print(card.multiProcessorCount);
    std::printf("]}\n");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
