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

uint64_t Queue::enqueue(const Op& op, std::vector<Argument> values) {
  bool wake;
  uint64_t ticket;
  {
    std::lock_guard lock(mutex_);
    ticket = ++ticket_;
    tasks_.push_back({&op, ticket, std::move(values), nullptr, nullptr});
    wake = sleeping_;
  }
  if (wake) wake_.notify_one();
  return ticket;
}

void Queue::wait(Buffer* source, uint8_t* target, Done done) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back({nullptr, ticket_, {{source, 0}}, target, std::move(done)});
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
    if (task.op) run(task);
    else answer(task);
    for (const Argument& value : task.values) {
      if (value.buffer) value.buffer->drop();
    }
    lock.lock();
    finished_ = task.ticket;
    if (task.op) {
      ++stats_[number(*task.op)].calls;
      tell_times(false);
    }
  }
}

// Runs an op, unless an op before it failed: then what it would have written is marked, so that nobody reads it.
void Queue::run(Task& task) {
  std::shared_ptr<const Failure> failure = failure_;
  for (const Argument& value : task.values) {
    if (!failure && value.buffer) failure = value.buffer->failure;
  }
  if (!failure) {
    backend_->start(number(*task.op));
    try {
      task.op->run(task.values.data());
    } catch (const std::exception& error) {
      failure = std::make_shared<Failure>(Failure{task.ticket, task.op->name + ": " + error.what(), code_of(error)});
    }
    backend_->stop();
    if (!failure) return;
    std::lock_guard lock(mutex_);
    failed_.push_back(task.ticket);
  }
  failure_ = failure;
  for (size_t i = 0; i < task.values.size(); ++i) {
    if (task.op->fields[i].writes && task.values[i].buffer) task.values[i].buffer->failure = failure;
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
