// defines: ops::Queue, which runs ops in order on one thread; ops::Registry, the list of ops.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "args.h"
#include "backend.h"
#include "error.h"

namespace ops {

struct Field {
  std::string name;
  enum class Kind { tensor, whole, real, flag } kind;
  std::string type;  // of a tensor: "f32", …, "any"; "16" for two-byte types
  bool writes = false;
  bool required = true;
};

// The value of one field of a call: a tensor's buffer (or null) or a number.
struct Argument {
  Buffer* buffer = nullptr;
  double number = 0;
};

struct Op {
  std::string name;
  std::vector<Field> fields;
  std::function<void(const Argument*)> run;  // values in the order of the fields
};

struct OpStats {
  uint64_t calls = 0;
  double seconds = 0;
};

namespace detail {

template <class T>
const char* type_name() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, double>) return "f64";
  else if constexpr (std::is_same_v<U, float>) return "f32";
  else if constexpr (std::is_same_v<U, int64_t>) return "i64";
  else if constexpr (std::is_same_v<U, int32_t>) return "i32";
  else if constexpr (std::is_same_v<U, int16_t>) return "i16";
  else if constexpr (std::is_same_v<U, uint16_t>) return "16";
  else if constexpr (std::is_same_v<U, int8_t>) return "i8";
  else {
    static_assert(std::is_same_v<U, uint8_t>, "no tensor has this element type");
    return "any";
  }
}

// Visitor that lists the fields of an Args struct.
struct Describe {
  std::vector<Field> fields;
  template <class T>
  void operator()(const char* name, T*&, Optional) {
    fields.push_back({name, Field::Kind::tensor, type_name<T>(), !std::is_const_v<T>, false});
  }
  template <class T>
  void operator()(const char* name, T*&) {
    fields.push_back({name, Field::Kind::tensor, type_name<T>(), !std::is_const_v<T>, true});
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void operator()(const char* name, T&) {
    const auto kind = std::is_same_v<T, bool> ? Field::Kind::flag : std::is_integral_v<T> ? Field::Kind::whole : Field::Kind::real;
    fields.push_back({name, kind, "", false, true});
  }
};

// Visitor that fills an Args struct from a call's values.
struct Bind {
  const Argument* next;
  template <class T, class... Tag>
  void operator()(const char*, T*& pointer, Tag...) {
    Buffer* buffer = (next++)->buffer;
    pointer = buffer ? reinterpret_cast<T*>(buffer->data()) : nullptr;
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void operator()(const char*, T& number) {
    number = static_cast<T>((next++)->number);
  }
};

}  // namespace detail

class Registry {
 public:
  template <class Args>
  void add(const char* name, void (*op)(const Args&)) {
    Args blank{};
    detail::Describe describe;
    blank.fields(describe);
    ops_.push_back({name, std::move(describe.fields), [op](const Argument* values) {
                      Args args{};
                      detail::Bind bind{values};
                      args.fields(bind);
                      op(args);
                    }});
  }
  const std::vector<Op>& ops() const { return ops_; }

 private:
  std::vector<Op> ops_;
};

// Calls that were recorded: run as often as one likes, with the same buffers, which it holds.
struct Program {
  struct Step {
    const Op* op;
    uint64_t ticket;
    std::vector<Argument> values;
  };
  explicit Program(std::shared_ptr<Backend> backend) : backend(std::move(backend)) {}
  ~Program();
  const std::shared_ptr<Backend> backend;  // outlives what it keeps for the program
  std::vector<Step> steps;
  // The queue's thread only:
  std::shared_ptr<const Failure> failure;  // of the last run
  std::shared_ptr<Backend::Recording> recording;
  std::mutex mutex;   // of the form
  std::string form = "ops";
};

class Queue {
 public:
  // What a wait ends with: null, or the failure it reports. Called on a thread of the queue or its backend.
  using Done = std::function<void(std::shared_ptr<const Failure>)>;

  Queue(const Registry& registry, std::shared_ptr<Backend> backend);
  ~Queue();  // finishes the op that runs, forgets the others

  // Takes over one reference to each buffer in `values`. Returns the call's ticket: 1, 2, …
  uint64_t enqueue(const Op& op, std::vector<Argument> values);
  // The number of a call that is recorded rather than enqueued.
  uint64_t take_ticket();
  uint64_t enqueue(std::shared_ptr<Program> program);
  // Over the buffer's bytes, after all that is enqueued. Takes over a reference.
  void write(Buffer* target, std::vector<uint8_t> bytes);
  // After all that is enqueued: copies the buffer's bytes (unless null; takes over a reference) to `target`, then calls `done`.
  void wait(Buffer* source, uint8_t* target, Done done);

  const std::shared_ptr<Backend>& backend() const { return backend_; }
  // Tickets up to this one have run; failures since the start, by ticket.
  uint64_t progress(std::vector<uint64_t>& failed) const;
  std::vector<OpStats> stats();  // in the registry's order

 private:
  struct Task {
    const Op* op = nullptr;  // one of the four: an op; a program; bytes to write; or, with none of them, a wait
    uint64_t ticket = 0;
    std::vector<Argument> values{};
    uint8_t* target = nullptr;
    Done done{};
    std::shared_ptr<Program> program{};
    std::vector<uint8_t> bytes{};
  };
  void work();
  bool run(const Op& op, const std::vector<Argument>& values, uint64_t ticket);
  void replay(Program& program);
  void write(Task& task);
  uint64_t put(Task task);
  void answer(Task& task);
  void tell_times(bool all);
  size_t number(const Op& op) const { return &op - registry_.ops().data(); }

  const Registry& registry_;
  const std::shared_ptr<Backend> backend_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  std::vector<OpStats> stats_;
  std::vector<uint64_t> failed_;
  uint64_t ticket_ = 0, finished_ = 0;
  bool sleeping_ = false, stop_ = false;
  std::shared_ptr<const Failure> failure_;  // since the last wait; the queue's thread only
  std::thread thread_;
};

}  // namespace ops
