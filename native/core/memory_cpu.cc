#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "error.h"
#include "memory.h"

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

uint8_t* allocate(size_t bytes) {
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

void Ledger::add(size_t bytes) {
  const size_t live = live_.fetch_add(bytes) + bytes;
  size_t peak = peak_.load();
  while (live > peak && !peak_.compare_exchange_weak(peak, live)) {
  }
}

void Ledger::subtract(size_t bytes) { live_.fetch_sub(bytes); }

Buffer::Buffer(std::shared_ptr<Ledger> ledger, size_t bytes) : ledger_(std::move(ledger)), bytes_(bytes) { ledger_->add(bytes_); }

Buffer::~Buffer() {
  if (!data_) return;
  ledger_->subtract(bytes_);
  release(data_, bytes_);
}

void Buffer::drop() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

void Buffer::disown() {
  {
    std::lock_guard lock(mutex_);
    owned_ = false;
    if (!data_) ledger_->subtract(bytes_);
  }
  drop();
}

uint8_t* Buffer::data() {
  std::lock_guard lock(mutex_);
  if (data_) return data_;
  data_ = allocate(bytes_);
  if (!data_) {
    fail("out of memory: %.1f MB are needed, %.1f MB of tensors are alive. Lower --memory, or use a machine with more.", bytes_ / 1e6,
         ledger_->live() / 1e6);
  }
  if (!owned_) ledger_->add(bytes_);
  return data_;
}

}  // namespace ops
