#include "backend.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "blas.h"
#include "error.h"
#include "parallel.h"

namespace ops {

namespace {

constexpr size_t kAlign = 64;  // a cache line, and the widest vector

#if defined(__linux__)
// From here on tensors come straight from the kernel, in pages of 2 MB: a fresh 64 MB tensor costs 32 page faults, not
// 16384, and what is disposed goes back at once, whatever the heap looks like.
constexpr size_t kHuge = 2 << 20;

uint8_t* map_pages(size_t bytes) {
  const size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
  if (size < bytes || size + kHuge < size) return nullptr;
  void* start = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  uint8_t* const from = static_cast<uint8_t*>(start);
  const size_t before = (kHuge - reinterpret_cast<uintptr_t>(from) % kHuge) % kHuge;
  if (before) munmap(from, before);
  munmap(from + before + size, kHuge - before);
  madvise(from + before, size, MADV_HUGEPAGE);
  return from + before;
}
#endif

uint8_t* take(size_t bytes) {
#if defined(__linux__)
  if (bytes >= kHuge) return map_pages(bytes);
#endif
  const size_t size = (bytes / kAlign + 1) * kAlign;  // whole multiples of the alignment, never 0
  return size < bytes ? nullptr : static_cast<uint8_t*>(std::aligned_alloc(kAlign, size));
}

void release(uint8_t* data, size_t bytes) {
#if defined(__linux__)
  if (bytes >= kHuge) {
    munmap(data, (bytes + kHuge - 1) / kHuge * kHuge);
    return;
  }
#endif
  std::free(data);
}

}  // namespace

struct Backend::State {
  Pool pool{detect_threads()};
  Context context{detect_level(), &pool, detect_blas()};
  size_t op = 0;  // that runs, or ran last
  std::chrono::steady_clock::time_point started;
  std::optional<double> seconds;  // that it took, until told
};

Backend::Backend(int) : state_(std::make_unique<State>()) {}
Backend::~Backend() = default;

void Backend::enter() { set_context(state_->context); }

void Backend::start(size_t op) { state_->op = op, state_->started = std::chrono::steady_clock::now(); }

void Backend::stop() { state_->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - state_->started).count(); }

void Backend::known(bool, const std::function<void(size_t, double)>& tell) {
  if (state_->seconds) tell(state_->op, *state_->seconds);
  state_->seconds.reset();
}

uint8_t* Backend::allocate(size_t bytes) {
  uint8_t* const data = take(bytes);
  if (!data) {
    fail_with(kOutOfMemory, "out of memory: %.1f MB are needed, %.1f MB of tensors are alive. Lower --memory, or use a machine with more.",
              bytes / 1e6, ledger_.live() / 1e6);
  }
  return data;
}

uint8_t* Backend::upload(size_t bytes, const Fill& fill) {
  uint8_t* data = allocate(bytes);
  try {
    if (bytes > 0) fill(data, 0, bytes);
  } catch (...) {
    release(data, bytes);
    throw;
  }
  return data;
}

bool Backend::uploads_late(size_t) const { return false; }

void Backend::read(const uint8_t* source, uint8_t* target, size_t bytes, Done done) {
  if (bytes) std::copy_n(source, bytes, target);
  done(nullptr);
}

void Backend::settle() {}

void Backend::write(const uint8_t* source, uint8_t* target, size_t bytes) { std::copy_n(source, bytes, target); }

struct Backend::Recording {};

void Backend::replay(std::shared_ptr<Recording>&, const std::function<bool()>& each, const std::function<void()>&) { each(); }

std::string Backend::form(const Recording*) { return "ops"; }

void Backend::free(uint8_t* data, size_t bytes) { release(data, bytes); }

std::map<std::string, std::string> Backend::texts() const {
  return {{"isa", name(state_->context.level)}, {"blas", state_->context.blas ? state_->context.blas->path : "built-in"}};
}

std::map<std::string, double> Backend::numbers() const { return {{"threads", state_->pool.threads()}}; }

}  // namespace ops
