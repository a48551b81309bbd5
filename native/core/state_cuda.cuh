// defines: what a GPU's Backend keeps, for the files that implement it.
#pragma once
#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend.h"
#include "cublas.h"
#include "cuda.cuh"

namespace ops {

constexpr size_t kLate = 1 << 20;   // bytes of an upload that is left to the queue's thread, at most; it has a ring of its own
constexpr size_t kChunk = 8 << 20;  // bytes of pinned memory that one of more uses: 0.3 ms of PCIe 5
constexpr size_t kChunks = 4;       // on their way at a time

// Pinned memory in a ring: while one chunk is on its way another is filled or emptied.
class Ring {
 public:
  explicit Ring(size_t chunk) : size_(chunk) {}
  ~Ring() {
    for (Chunk& chunk : chunks_) {
      cudaFreeHost(chunk.data);
      if (chunk.done) cudaEventDestroy(chunk.done);
    }
  }
  struct Chunk {
    uint8_t* data = nullptr;
    cudaEvent_t done = nullptr;  // the transfer that used it last
    void wait() const { check(cudaEventSynchronize(done)); }
  };
  // The chunk of the i-th transfer; made at first use, so that a device that is only asked about pins nothing.
  Chunk& operator[](size_t i) {
    Chunk& chunk = chunks_[i % kChunks];
    if (!chunk.data) {
      check(cudaEventCreateWithFlags(&chunk.done, cudaEventDisableTiming | cudaEventBlockingSync));
      check(cudaMallocHost(&chunk.data, size_));
    }
    return chunk;
  }
  size_t size() const { return size_; }

 private:
  const size_t size_;
  std::array<Chunk, kChunks> chunks_;
};

struct Backend::State {
  explicit State(int number);
  ~State();
  void* take(size_t bytes, cudaStream_t on);

  int number;
  cudaDeviceProp card;
  bool overlaps = false;  // card_overlaps()
  int driver = 0, runtime = 0;
  cudaStream_t work = nullptr, copies = nullptr;
  struct Up {
    Ring ring;
    cudaEvent_t copied = nullptr;
    size_t next = 0;
    std::mutex mutex{};
  };
  Up few{Ring(kLate)}, many{Ring(kChunk)};  // so that few bytes do not wait until many are read from a disk
  std::mutex leaving;                       // of the following
  std::vector<uint8_t*> left;               // memory that other threads gave back
  std::atomic<bool> some_left = false;
  void free_left();
  struct Reading {
    uint8_t* target;
    size_t bytes;
    void* aside;  // a copy: of few bytes pinned, else on the device
    cudaEvent_t ready;
    Done done;
  };
  std::mutex reading;  // of the following
  std::condition_variable read;
  std::deque<Reading> readings;
  std::vector<cudaEvent_t> marks;  // for the next
  uint8_t* pinned = nullptr;
  std::vector<uint8_t*> places;  // of it, that are free
  bool over = false;
  std::thread reader;
  void read_all();
  void bring(const uint8_t* source, uint8_t* target, size_t bytes);
  Recording* recording = nullptr;  // the queue's thread only, as the next
  cudaStream_t capture = nullptr;  // while what ops launch is captured
  cudaStream_t down = nullptr;
  Ring ring{kChunk};  // the reader's
  std::optional<Cublas> cublas{std::in_place};
  std::map<std::string, float*> constants;  // the queue's thread only
  struct Span {
    size_t op;
    cudaEvent_t begin, end;
  };
  Span begun{};                   // the queue's thread only
  std::mutex timing;              // of the following
  std::deque<Span> spans;         // ops whose times are not known yet
  std::vector<cudaEvent_t> idle;  // events for the next
  size_t calls = 0;
  cudaEvent_t mark();
};

extern thread_local Backend::State* current;  // of the queue's thread

// What an op of a program borrows stays the program's: every run finds it where the run before had it.
struct Backend::Recording {
  explicit Recording(State& state) : state(state) {}
  ~Recording();
  void* borrow(size_t bytes);
  void give_back(void* data);
  void capture_graph(const std::function<void()>& launch);

  State& state;
  std::map<void*, size_t> taken;
  std::multimap<size_t, void*> idle;
  bool warm = false;  // it has run once, so that all that ops make at first use is made
  cudaGraphExec_t graph = nullptr;
  std::string why;  // it is no graph
};

}  // namespace ops
