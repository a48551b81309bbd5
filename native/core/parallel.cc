#include "parallel.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#if defined(__linux__)
#include <sched.h>
#endif

#include "error.h"

namespace ops {

namespace {
thread_local Context current;

// CPUs allowed by a cgroup v2 quota ("max 100000" = no quota), or 0.
int quota() {
  std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
  if (!file) return 0;
  double limit = 0, period = 0;
  const int read = std::fscanf(file, "%lf %lf", &limit, &period);
  std::fclose(file);
  return read == 2 && period > 0 ? std::max(1, static_cast<int>(std::lround(limit / period))) : 0;
}
// Whether it came true while looked at for a moment. A step of decoding is hundreds of loops one right after the other, and to sleep and be
// woken takes longer than what is between two of them.
template <class F>
bool soon(const F& came) {
  constexpr auto moment = std::chrono::microseconds(50);
  const auto until = std::chrono::steady_clock::now() + moment;
  do {
    for (int i = 0; i < 32; ++i) {
      if (came()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  } while (std::chrono::steady_clock::now() < until);
  return false;
}
}  // namespace

const Context& context() { return current; }
void set_context(const Context& context) { current = context; }

int detect_threads() {
  if (const char* wish = std::getenv("PIPE_THREADS"); wish && *wish) {
    char* end;
    const long threads = std::strtol(wish, &end, 10);
    if (*end || threads < 1 || threads > 1024) fail("PIPE_THREADS is \"%s\"; it may be a number from 1 to 1024.", wish);
    return static_cast<int>(threads);
  }
  int threads = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) threads = CPU_COUNT(&set);
#endif
  if (const int limit = quota()) threads = std::min(threads, limit);
  return std::max(1, threads);
}

struct Pool::Job {
  int64_t count;
  Piece piece;
  const void* body;
  Context context;
  std::atomic<int64_t> next{0};
  std::atomic<int> active = 0;  // workers inside; changed under the pool's mutex
  std::mutex mutex{};
  std::exception_ptr failure{};
};

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::take(Job& job) {
  for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.count;) {
    try {
      job.piece(job.body, i);
    } catch (...) {
      std::lock_guard lock(job.mutex);
      if (!job.failure) job.failure = std::current_exception();
      job.next.store(job.count, std::memory_order_relaxed);
    }
  }
}

void Pool::work() {
  uint64_t seen = 0;
  while (true) {
    soon([&] { return job_.load(std::memory_order_relaxed) && round_.load(std::memory_order_relaxed) != seen; });
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stop_ || (job_ && round_ != seen); });
    if (stop_) return;
    seen = round_;
    Job& job = *job_;
    ++job.active;
    lock.unlock();
    set_context(job.context);
    take(job);
    lock.lock();
    if (--job.active == 0) idle_.notify_one();
  }
}

void Pool::run(int64_t count, Piece piece, const void* body) {
  const Context outer = context();
  Context inner = outer;
  inner.pool = nullptr;  // a loop inside a piece runs on its own thread
  Job job{count, piece, body, inner};
  {
    std::lock_guard lock(mutex_);
    job_ = &job;
    ++round_;
  }
  wake_.notify_all();
  set_context(inner);
  take(job);
  set_context(outer);
  {
    std::lock_guard lock(mutex_);
    job_ = nullptr;  // whoever wakes only now finds nothing
  }
  soon([&] { return job.active.load(std::memory_order_relaxed) == 0; });
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [&] { return job.active == 0; });
  lock.unlock();
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace ops
