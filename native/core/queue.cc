#include "queue.h"

namespace ops {

Queue::Queue(const Registry& registry, std::shared_ptr<Backend> backend)
    : registry_(registry), backend_(std::move(backend)), stats_(registry.ops().size()) {
  thread_ = std::thread([this] { work(); });
}

Queue::~Queue() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
  backend_->settle();
  for (Task& task : tasks_) {
    for (const Argument& value : task.values) {
      if (value.buffer) value.buffer->drop();
    }
  }
}

Program::~Program() {
  for (const Step& step : steps) {
    for (const Argument& value : step.values) {
      if (value.buffer) value.buffer->drop();
    }
  }
}

uint64_t Queue::put(Task task) {
  bool wake;
  uint64_t ticket;
  {
    std::lock_guard lock(mutex_);
    task.ticket = ticket = ++ticket_;
    tasks_.push_back(std::move(task));
    wake = sleeping_;
  }
  if (wake) wake_.notify_one();
  return ticket;
}

uint64_t Queue::enqueue(const Op& op, std::vector<Argument> values) { return put({.op = &op, .values = std::move(values)}); }

uint64_t Queue::enqueue(std::shared_ptr<Program> program) { return put({.program = std::move(program)}); }

void Queue::write(Buffer* target, std::vector<uint8_t> bytes) { put({.values = {{target, 0}}, .bytes = std::move(bytes)}); }

uint64_t Queue::take_ticket() {
  std::lock_guard lock(mutex_);
  return ++ticket_;
}

void Queue::wait(Buffer* source, uint8_t* target, Done done) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back({.ticket = ticket_, .values = {{source, 0}}, .target = target, .done = std::move(done)});
  }
  wake_.notify_one();
}

uint64_t Queue::progress(std::vector<uint64_t>& failed) const {
  std::lock_guard lock(mutex_);
  failed = failed_;
  return finished_;
}

std::vector<OpStats> Queue::stats() {
  std::lock_guard lock(mutex_);
  tell_times(true);
  return stats_;
}

void Queue::work() {
  backend_->enter();
  std::unique_lock lock(mutex_);
  while (true) {
    sleeping_ = true;
    wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
    sleeping_ = false;
    if (stop_) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    if (task.op) run(*task.op, task.values, task.ticket);
    else if (task.program) replay(*task.program);
    else if (task.done) answer(task);
    else write(task);
    for (const Argument& value : task.values) {
      if (value.buffer) value.buffer->drop();
    }
    lock.lock();
    finished_ = task.ticket;
    if (task.op) ++stats_[number(*task.op)].calls;
    if (task.op || task.program) tell_times(false);
    task.program.reset();
  }
}

// Runs an op, unless an op before it failed: then what it would have written is marked, so that nobody reads it.
bool Queue::run(const Op& op, const std::vector<Argument>& values, uint64_t ticket) {
  std::shared_ptr<const Failure> failure = failure_;
  for (const Argument& value : values) {
    if (!failure && value.buffer) failure = value.buffer->failure;
  }
  if (!failure) {
    backend_->start(number(op));
    try {
      op.run(values.data());
    } catch (const std::exception& error) {
      failure = std::make_shared<Failure>(Failure{ticket, op.name + ": " + error.what(), code_of(error)});
    }
    backend_->stop();
    if (!failure) return true;
    std::lock_guard lock(mutex_);
    failed_.push_back(ticket);
  }
  failure_ = failure;
  for (size_t i = 0; i < values.size(); ++i) {
    if (op.fields[i].writes && values[i].buffer) values[i].buffer->failure = failure;
  }
  return false;
}

// What failed in the last run is made again by this one.
void Queue::replay(Program& program) {
  const std::shared_ptr<const Failure> before = std::move(program.failure);
  std::shared_ptr<const Failure> failure = failure_;
  program.failure = nullptr;
  for (const Program::Step& step : program.steps) {
    for (const Argument& value : step.values) {
      if (!value.buffer) continue;
      if (value.buffer->failure == before) value.buffer->failure = nullptr;
      if (!failure) failure = value.buffer->failure;
    }
  }
  const auto each = [&] {
    bool all = true;
    for (const Program::Step& step : program.steps) {
      all = run(*step.op, step.values, step.ticket) && all;
      std::lock_guard lock(mutex_);
      ++stats_[number(*step.op)].calls;
      tell_times(false);
    }
    return all;
  };
  if (failure) {
    each();  // marks what is not made
  } else {
    try {
      backend_->replay(program.recording, each, [&] {
        for (const Program::Step& step : program.steps) step.op->run(step.values.data());
      });
    } catch (const std::exception& error) {
      failure_ = std::make_shared<Failure>(Failure{program.steps.front().ticket, std::string("recorded program: ") + error.what(), code_of(error)});
      each();
    }
  }
  program.failure = failure_;
  std::lock_guard lock(program.mutex);
  program.form = Backend::form(program.recording.get());
}

void Queue::write(Task& task) {
  Buffer* const target = task.values[0].buffer;
  target->failure = failure_;
  if (failure_ || task.bytes.empty()) return;
  try {
    backend_->write(task.bytes.data(), target->data(), task.bytes.size());
  } catch (const std::exception& error) {
    target->failure = failure_ = std::make_shared<Failure>(Failure{task.ticket, std::string("write: ") + error.what(), code_of(error)});
  }
}

void Queue::answer(Task& task) {
  Buffer* source = task.values[0].buffer;
  std::shared_ptr<const Failure> failure = std::move(failure_);
  failure_ = nullptr;
  if (!failure && source) failure = source->failure;
  if (failure) return task.done(std::move(failure));
  const auto told = [ticket = task.ticket, done = std::move(task.done)](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
      done(nullptr);
    } catch (const std::exception& caught) {
      done(std::make_shared<Failure>(Failure{ticket, std::string("read: ") + caught.what(), code_of(caught)}));
    }
  };
  try {
    const bool some = source && source->bytes();  // an empty array has no address
    backend_->read(some ? source->data() : nullptr, task.target, some ? source->bytes() : 0, told);
  } catch (const std::exception&) {
    told(std::current_exception());
  }
}

// With the lock held.
void Queue::tell_times(bool all) {
  backend_->known(all, [this](size_t op, double seconds) { stats_[op].seconds += seconds; });
}

}  // namespace ops
