#include "memory.h"

#include <algorithm>

#include "backend.h"

namespace ops {

void Ledger::add(size_t bytes) {
  const size_t live = live_.fetch_add(bytes) + bytes;
  size_t peak = peak_.load();
  while (live > peak && !peak_.compare_exchange_weak(peak, live)) {
  }
}

void Ledger::subtract(size_t bytes) { live_.fetch_sub(bytes); }

Buffer::Buffer(std::shared_ptr<Backend> backend, size_t bytes) : backend_(std::move(backend)), bytes_(bytes) { backend_->ledger().add(bytes_); }

Buffer::~Buffer() {
  if (!data_) return;
  backend_->free(data_, bytes_);
  backend_->ledger().subtract(bytes_);
}

void Buffer::drop() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

void Buffer::disown() {
  {
    std::lock_guard lock(mutex_);
    owned_ = false;
    if (!data_) backend_->ledger().subtract(bytes_);
  }
  drop();
}

namespace {

Backend::Fill from(const uint8_t* source) {
  return [source](uint8_t* to, size_t at, size_t bytes) { std::copy_n(source + at, bytes, to); };
}

}  // namespace

void Buffer::upload(const uint8_t* source) {
  if (!backend_->uploads_late(bytes_)) return fill(from(source));
  std::lock_guard lock(mutex_);
  late_.assign(source, source + bytes_);
}

void Buffer::fill(const Backend::Fill& fill) {
  uint8_t* const data = backend_->upload(bytes_, fill);
  std::lock_guard lock(mutex_);
  data_ = data;
}

uint8_t* Buffer::data() {
  std::lock_guard lock(mutex_);
  if (data_) return data_;
  if (late_.empty()) {
    data_ = backend_->allocate(bytes_);
  } else {
    data_ = backend_->upload(bytes_, from(late_.data()));
    late_ = {};
  }
  if (!owned_) backend_->ledger().add(bytes_);
  return data_;
}

}  // namespace ops
