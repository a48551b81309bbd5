// Between host and device: uploads and reads that keep neither the stream of work nor the event loop waiting.
#include <cstring>

#include "state_cuda.cuh"

namespace ops {

namespace {

constexpr size_t kSmall = 1 << 20;  // a read of no more goes into pinned memory at once: logits of eight texts
constexpr int kSmalls = 16;

// Fresh memory takes longer to be touched first than to be filled (1 GB/s): while the device still works on what will be there.
void touch(uint8_t* data, size_t bytes) {
  constexpr size_t kPage = 4096;
  for (size_t at = 0; at < bytes; at += kPage) const_cast<volatile uint8_t*>(data)[at] = 0;
}

}  // namespace

// On a stream of its own, so that weights arrive while the work stream is busy; what is launched later waits for them.
uint8_t* Backend::upload(size_t bytes, const Fill& fill) {
  State& state = *state_;
  State::Up& up = bytes <= kLate ? state.few : state.many;
  std::lock_guard lock(up.mutex);
  check(cudaSetDevice(state.number));
  auto* data = static_cast<uint8_t*>(state.take(bytes, state.copies));
  try {
    for (size_t done = 0; done < bytes; done += up.ring.size()) {
      const size_t size = std::min(up.ring.size(), bytes - done);
      Ring::Chunk& chunk = up.ring[up.next++];
      chunk.wait();
      fill(chunk.data, done, size);
      check(cudaMemcpyAsync(data + done, chunk.data, size, cudaMemcpyHostToDevice, state.copies));
      check(cudaEventRecord(chunk.done, state.copies));
    }
    check(cudaEventRecord(up.copied, state.copies));
    check(cudaStreamWaitEvent(state.work, up.copied));
  } catch (...) {
    cudaFreeAsync(data, state.copies);
    throw;
  }
  return data;
}

bool Backend::uploads_late(size_t bytes) const { return bytes <= kLate; }

// The stream goes on: what is read is copied aside in its order, small tensors into pinned memory, and a thread of its own
// waits for that and brings it to its place. Waiting here would leave the card idle until the next op is launched.
void Backend::read(const uint8_t* source, uint8_t* target, size_t bytes, Done done) {
  State& state = *state_;
  if (state.some_left) state.free_left();
  State::Reading reading{target, bytes, nullptr, nullptr, std::move(done)};
  std::unique_lock lock(state.reading);
  if (state.marks.empty()) {
    check(cudaEventCreateWithFlags(&reading.ready, cudaEventDisableTiming | cudaEventBlockingSync));
  } else {
    reading.ready = state.marks.back();
    state.marks.pop_back();
  }
  if (bytes > kSmall) {
    lock.unlock();
    reading.aside = state.take(bytes, state.work);
    check(cudaMemcpyAsync(reading.aside, source, bytes, cudaMemcpyDeviceToDevice, state.work));
    lock.lock();
  } else if (bytes > 0) {
    if (!state.pinned) {
      check(cudaMallocHost(&state.pinned, kSmalls * kSmall));
      for (int i = 0; i < kSmalls; ++i) state.places.push_back(state.pinned + i * kSmall);
    }
    state.read.wait(lock, [&] { return !state.places.empty(); });
    reading.aside = state.places.back();
    state.places.pop_back();
    check(cudaMemcpyAsync(reading.aside, source, bytes, cudaMemcpyDeviceToHost, state.work));
  }
  check(cudaEventRecord(reading.ready, state.work));
  state.readings.push_back(std::move(reading));
  if (!state.reader.joinable()) state.reader = std::thread([&state] { state.read_all(); });
  state.read.notify_all();
}

// As the arguments of a kernel, which are copied when it is launched: small tensors need no pinned memory.
namespace {
struct Bytes {
  uint8_t values[2048];
};
__global__ void write_kernel(uint8_t* target, Bytes bytes, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) target[i] = bytes.values[i];
}
}  // namespace

void Backend::write(const uint8_t* source, uint8_t* target, size_t bytes) {
  for (size_t done = 0; done < bytes; done += sizeof(Bytes)) {
    Bytes part;
    const size_t size = std::min(sizeof(Bytes), bytes - done);
    std::memcpy(part.values, source + done, size);
    write_kernel<<<1, kThreads, 0, state_->work>>>(target + done, part, static_cast<int>(size));
    launched();
  }
}

void Backend::settle() {
  std::unique_lock lock(state_->reading);
  state_->read.wait(lock, [&] { return state_->readings.empty(); });
}

void Backend::State::read_all() {
  cudaSetDevice(number);
  std::unique_lock lock(reading);
  while (true) {
    read.wait(lock, [&] { return over || !readings.empty(); });
    if (readings.empty()) return;
    Reading& next = readings.front();  // stays where it is until it is done: settle() waits for that
    lock.unlock();
    std::exception_ptr error;
    try {
      touch(next.target, next.bytes);
      check(cudaEventSynchronize(next.ready));
      if (next.bytes > kSmall) bring(static_cast<const uint8_t*>(next.aside), next.target, next.bytes);
      else if (next.bytes > 0) std::memcpy(next.target, next.aside, next.bytes);
    } catch (...) {
      error = std::current_exception();
    }
    if (next.bytes > kSmall) cudaFreeAsync(next.aside, down);
    next.done(error);
    lock.lock();
    if (next.bytes > 0 && next.bytes <= kSmall) places.push_back(static_cast<uint8_t*>(next.aside));
    marks.push_back(next.ready);
    readings.pop_front();
    read.notify_all();
  }
}

void Backend::State::bring(const uint8_t* source, uint8_t* target, size_t bytes) {
  const size_t count = (bytes + kChunk - 1) / kChunk;
  const auto size = [&](size_t i) { return std::min(kChunk, bytes - i * kChunk); };
  for (size_t i = 0; i < count + kChunks - 1; ++i) {
    if (i < count) {
      Ring::Chunk& chunk = ring[i];
      check(cudaMemcpyAsync(chunk.data, source + i * kChunk, size(i), cudaMemcpyDeviceToHost, down));
      check(cudaEventRecord(chunk.done, down));
    }
    if (i + 1 < kChunks) continue;
    const size_t ready = i + 1 - kChunks;
    if (ready >= count) break;
    ring[ready].wait();
    std::memcpy(target + ready * kChunk, ring[ready].data, size(ready));
  }
}

}  // namespace ops
