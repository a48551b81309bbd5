// defines: ops::Buffer, the bytes of a tensor, and ops::Ledger, which counts them.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

namespace ops {

class Backend;  // backend.h

// Bytes of tensors that are alive (from the moment they are made), or disposed but still used by the queue.
class Ledger {
 public:
  void add(size_t bytes);
  void subtract(size_t bytes);
  size_t live() const { return live_.load(); }
  size_t peak() const { return peak_.load(); }

 private:
  std::atomic<size_t> live_{0}, peak_{0};
};

// An op that failed; kept by every buffer it should have written.
struct Failure {
  uint64_t ticket;  // of the run() call that enqueued it
  std::string message;
  const char* code;  // of error.h, or null
};

// A counted block of memory. It is allocated when the queue first touches it, so a temporary that was disposed right
// after it was enqueued occupies memory only while the ops that use it run.
class Buffer {
 public:
  Buffer(std::shared_ptr<Backend> backend, size_t bytes);  // one reference, held by the tensor's handle
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void drop();
  void disown();  // the handle's reference goes: not counted any more unless there are bytes
  void upload(const uint8_t* source);  // fills it, once, before any op uses it; throws when memory is out
  uint8_t* data();  // 64-byte aligned, where the backend's ops can reach it; throws when memory is out
  size_t bytes() const { return bytes_; }

  std::shared_ptr<const Failure> failure;  // the queue's thread only

 private:
  ~Buffer();
  const std::shared_ptr<Backend> backend_;
  const size_t bytes_;
  std::atomic<int> references_{1};
  std::mutex mutex_;  // of the two below
  bool owned_ = true;
  uint8_t* data_ = nullptr;
};

}  // namespace ops
