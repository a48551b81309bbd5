// defines: ops::Buffer, the bytes of a tensor, and ops::Ledger, which counts them.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

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
  // Once, before any op uses it: with bytes that may change afterwards, or with what `fill` writes (Backend::upload).
  void upload(const uint8_t* source);
  void fill(const std::function<void(uint8_t* to, size_t at, size_t bytes)>& fill);
  uint8_t* data();  // 64-byte aligned, where the backend's ops can reach it; throws when memory is out
  size_t bytes() const { return bytes_; }

  std::shared_ptr<const Failure> failure;  // the queue's thread only

 private:
  ~Buffer();
  const std::shared_ptr<Backend> backend_;
  const size_t bytes_;
  std::atomic<int> references_{1};
  std::mutex mutex_;  // of the following
  bool owned_ = true;
  uint8_t* data_ = nullptr;
  std::vector<uint8_t> late_;  // what it holds, until the queue comes to it
};

}  // namespace ops
