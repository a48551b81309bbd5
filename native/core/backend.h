// defines: ops::Backend, what a device is to its queue: memory, and the settings that ops ask for. One implementation an addon.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "memory.h"

namespace ops {

class Backend {
 public:
  // The device of this number, under the machine's settings as the PIPE_… variables say now. Throws a sentence when it
  // cannot be used.
  explicit Backend(int number);
  ~Backend();

  void enter();  // on the queue's thread, before its first op

  // Around the op of this number, on the queue's thread: how long the device works on it.
  void start(size_t op);
  void stop();
  // Tells what has become known of that since it was last asked, in the order of the ops; all, or what costs little to ask
  // for. After a read, all is known of what was enqueued before it.
  void known(bool all, const std::function<void(size_t op, double seconds)>& tell);

  // Unspecified bytes for the op that is about to run; throws when memory is out. On the queue's thread.
  uint8_t* allocate(size_t bytes);
  // Bytes that `fill` writes, piece by piece and in order (to, where in them, how many), complete before any op that is run
  // later reads them. On any thread; throws when memory is out, and what `fill` throws.
  using Fill = std::function<void(uint8_t* to, size_t at, size_t bytes)>;
  uint8_t* upload(size_t bytes, const Fill& fill);
  // Whether so few are kept on the host until the queue's thread comes to the op that reads them, so that the thread that
  // has them need not wait for a driver that is busy.
  bool uploads_late(size_t bytes) const;
  // Copies to the host what the ops enqueued so far leave there (0 bytes: nothing, and the pointers may be null), then calls
  // `done`, on any thread, with null or with what the device reports. What is enqueued later need not wait for it, and may
  // change or free the source. On the queue's thread; throws what can be said at once.
  using Done = std::function<void(std::exception_ptr)>;
  void read(const uint8_t* source, uint8_t* target, size_t bytes, Done done);
  void settle();  // until `done` has been called for every read
  // The same over bytes that are there: what is enqueued later sees them. On the queue's thread.
  void write(const uint8_t* source, uint8_t* target, size_t bytes);
  // Back for others, once the ops that have run are done with it. On any thread.
  void free(uint8_t* data, size_t bytes);

  // Runs a list of ops that is run again and again: one by one with `each`, which says whether all ran well, or by what `kept`
  // has of what `launch` launched, which throws. On the queue's thread.
  struct Recording;
  void replay(std::shared_ptr<Recording>& kept, const std::function<bool()>& each, const std::function<void()>& launch);
  // "ops": one by one; "graph": launched at once; or why they can't be.
  static std::string form(const Recording* kept);

  Ledger& ledger() { return ledger_; }
  // What it runs on, for people: isa, blas, …, and how many threads or multiprocessors.
  std::map<std::string, std::string> texts() const;
  std::map<std::string, double> numbers() const;

  struct State;

 private:
  Ledger ledger_;
  const std::unique_ptr<State> state_;
};

}  // namespace ops
