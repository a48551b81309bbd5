// defines: ops::parallel_for, and the settings of the device whose queue runs the calling op.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu_features.h"

namespace ops {

struct Blas;  // blas.h

// The threads that share an op's work. Owned by a device's queue; one loop at a time.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  using Piece = void (*)(const void* body, int64_t piece);
  // Runs pieces 0 … count−1, each once, in any order, and returns when all are done; the first exception is rethrown.
  void run(int64_t count, Piece piece, const void* body);
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

 private:
  struct Job;
  void work();
  static void take(Job& job);
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::atomic<Job*> job_ = nullptr;
  std::atomic<uint64_t> round_ = 0;  // counts jobs: a worker enters each once
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

// What ops may ask about the device that runs them; set on the queue's thread and on the pool's.
struct Context {
  Level level = Level::portable;
  Pool* pool = nullptr;
  const Blas* blas = nullptr;  // null: the built-in one
};
const Context& context();
void set_context(const Context& context);

// Threads of the machine that this process may use (its affinity mask and CPU quota); PIPE_THREADS overrides.
int detect_threads();

// Calls f(begin, end) for consecutive pieces of [0, n), each of `grain` items (the last may be shorter). The pieces do
// not depend on the number of threads: an op that sums within pieces and adds the pieces in order is reproducible.
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  const int64_t count = (n + grain - 1) / grain;
  struct Body {
    const F& f;
    int64_t n, grain;
  } const body{f, n, grain};
  const auto piece = [](const void* data, int64_t i) {
    const Body& b = *static_cast<const Body*>(data);
    b.f(i * b.grain, std::min(b.n, (i + 1) * b.grain));
  };
  Pool* pool = context().pool;
  if (count == 1 || !pool || pool->threads() == 1) {
    for (int64_t i = 0; i < count; ++i) piece(&body, i);
  } else {
    pool->run(count, piece, &body);
  }
}

}  // namespace ops
