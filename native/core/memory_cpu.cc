#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "error.h"
#include "memory.h"

namespace ops {

namespace {
constexpr size_t kAlign = 64;         // a cache line, and the widest vector
constexpr size_t kHuge = 2 << 20;     // from here on in 2 MB pages: a fresh 64 MB tensor costs 32 page faults, not 16384
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
  if (data_) ledger_->subtract(bytes_);
  std::free(data_);
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
  const size_t align = bytes_ >= kHuge ? kHuge : kAlign;
  const size_t size = (bytes_ + kAlign) / align * align + align;  // whole multiples of the alignment, never 0
  void* data = nullptr;
  if (size < bytes_ || posix_memalign(&data, align, size) != 0) {
    fail("out of memory: %.1f MB are needed, %.1f MB of tensors are alive. Lower --memory, or use a machine with more.", bytes_ / 1e6,
         ledger_->live() / 1e6);
  }
#if defined(__linux__)
  if (align == kHuge) madvise(data, size, MADV_HUGEPAGE);
#endif
  data_ = static_cast<uint8_t*>(data);
  if (!owned_) ledger_->add(bytes_);
  return data_;
}

}  // namespace ops
