#include "backend.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <mutex>
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
// 16384, and what is given back goes at once, whatever the heap looks like.
constexpr size_t kHuge = 2 << 20;

uint8_t* map_pages(size_t size) {
  if (size + kHuge < size) return nullptr;
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

// What a block takes: whole multiples of the alignment, or of huge pages, never 0; 0: more than can be counted.
size_t size_of(size_t bytes) {
  size_t unit = kAlign;
#if defined(__linux__)
  if (bytes >= kHuge) unit = kHuge;
#endif
  const size_t size = (std::max<size_t>(bytes, 1) + unit - 1) / unit * unit;
  return size < bytes ? 0 : size;
}

uint8_t* take(size_t size) {
#if defined(__linux__)
  if (size >= kHuge) return map_pages(size);
#endif
  return static_cast<uint8_t*>(std::aligned_alloc(kAlign, size));
}

void release(uint8_t* data, size_t size) {
#if defined(__linux__)
  if (size >= kHuge) {
    munmap(data, size);
    return;
  }
#endif
  std::free(data);
}

// Blocks that were disposed last. The next op mostly wants one of the same size, and fresh pages cost a fault each, and zeros that nobody reads: a
// quarter of the time of the bundled model's fine-tuning.
class Kept {
 public:
  ~Kept() { clear(); }

  // The latest of this size, or null.
  uint8_t* take(size_t size) {
    if (!keeps(size)) return nullptr;
    std::lock_guard lock(mutex_);
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), [&](const Block& block) { return block.size == size; });
    if (found == blocks_.rend()) return nullptr;
    uint8_t* const data = found->data;
    bytes_ -= size;
    blocks_.erase(std::next(found).base());
    return data;
  }

  // Keeps it in place of those that have been here longest.
  void give(uint8_t* data, size_t size) {
    if (!keeps(size)) return release(data, size);
    std::lock_guard lock(mutex_);
    blocks_.push_back({data, size});
    for (bytes_ += size; bytes_ > kMost; blocks_.pop_front()) {
      const Block& oldest = blocks_.front();
      bytes_ -= oldest.size;
      release(oldest.data, oldest.size);
    }
  }

  void clear() {
    std::lock_guard lock(mutex_);
    for (const Block& block : blocks_) release(block.data, block.size);
    blocks_.clear();
    bytes_ = 0;
  }

 private:
  static constexpr size_t kLeast = 64 << 10, kMost = 128 << 20;
  static bool keeps(size_t size) { return kLeast <= size && size <= kMost / 4; }
  struct Block {
    uint8_t* data;
    size_t size;
  };
  std::mutex mutex_;
  std::deque<Block> blocks_;
  size_t bytes_ = 0;
};

}  // namespace

struct Backend::State {
  Kept kept;
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
  uint8_t* data = nullptr;
  if (const size_t size = size_of(bytes)) {
    data = state_->kept.take(size);
    if (!data) data = take(size);
    if (!data) state_->kept.clear(), data = take(size);
  }
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
    free(data, bytes);
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

void Backend::free(uint8_t* data, size_t bytes) { state_->kept.give(data, size_of(bytes)); }

std::map<std::string, std::string> Backend::texts() const {
  return {{"isa", name(state_->context.level)}, {"blas", state_->context.blas ? state_->context.blas->path : "built-in"}};
}

std::map<std::string, double> Backend::numbers() const { return {{"threads", state_->pool.threads()}}; }

}  // namespace ops
