#include "node_device.h"

#include "machine.h"

#include <cmath>
#include <unistd.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cerrno>
#include <cstring>

namespace ops {

namespace {

const char* kind_name(Field::Kind kind) {
  switch (kind) {
    case Field::Kind::tensor: return "tensor";
    case Field::Kind::whole: return "whole";
    case Field::Kind::real: return "real";
    default: return "flag";
  }
}

// Fresh memory is written for the first time by a read: 2 MB at a page fault instead of 4 KB, 1 → 10 GB/s.
void in_large_pages(uint8_t* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage, end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Napi::Error coded(Napi::Error error, const char* code) {
  if (code) error.Set("code", code);
  return error;
}

constexpr double kWhole = 9007199254740992.0;  // 2⁵³: beyond it a number no longer counts one by one

}  // namespace

// What a tensor holds: a reference to its buffer, until it is released or collected.
struct NodeDevice::Handle {
  Buffer* buffer;
};

struct NodeDevice::ProgramHandle {
  std::shared_ptr<Program> program;
};

struct NodeDevice::Wait {
  Napi::Promise::Deferred deferred;
  Napi::Reference<Napi::Uint8Array> bytes;
  std::shared_ptr<const Failure> failure;
};

Napi::Function NodeDevice::define(Napi::Env env, const Registry& registry) {
  return DefineClass(env, "Device",
                     {StaticMethod("survey", &NodeDevice::survey), InstanceMethod("ops", &NodeDevice::ops), InstanceMethod("info", &NodeDevice::info),
                      InstanceMethod("empty", &NodeDevice::empty), InstanceMethod("upload", &NodeDevice::upload),
                      InstanceMethod("bring", &NodeDevice::bring),
                      InstanceMethod("enqueue", &NodeDevice::enqueue), InstanceMethod("wait", &NodeDevice::wait),
                      InstanceMethod("record", &NodeDevice::record), InstanceMethod("recorded", &NodeDevice::recorded),
                      InstanceMethod("replay", &NodeDevice::replay), InstanceMethod("form", &NodeDevice::form),
                      InstanceMethod("forget", &NodeDevice::forget), InstanceMethod("write", &NodeDevice::write),
                      InstanceMethod("release", &NodeDevice::release), InstanceMethod("liveBytes", &NodeDevice::live_bytes),
                      InstanceMethod("peakBytes", &NodeDevice::peak_bytes), InstanceMethod("stats", &NodeDevice::stats),
                      InstanceMethod("progress", &NodeDevice::progress)},
                     const_cast<Registry*>(&registry));
}

NodeDevice::NodeDevice(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<NodeDevice>(info), registry_(*static_cast<const Registry*>(info.Data())) {
  try {
    queue_ = std::make_unique<Queue>(registry_, std::make_shared<Backend>(info[0].As<Napi::Number>().Int32Value()));
  } catch (const std::exception& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
  answers_ = Answers::New(info.Env(), "pipe device", 0, 1, this);
  answers_.Unref(info.Env());
  napi_add_env_cleanup_hook(info.Env(), &NodeDevice::leave, this);
}

NodeDevice::~NodeDevice() {
  if (!queue_) return;
  napi_remove_env_cleanup_hook(Env(), &NodeDevice::leave, this);
  stop();
}

void NodeDevice::leave(void* device) { static_cast<NodeDevice*>(device)->stop(); }

// The queue's thread must be gone before the environment is.
void NodeDevice::stop() {
  if (!queue_) return;
  queue_.reset();
  answers_.Release();
}

Napi::Value NodeDevice::survey(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto object = [&](const Facts& facts) {
    Napi::Object entry = Napi::Object::New(env);
    for (const auto& [key, text] : facts.texts) entry.Set(key, text);
    for (const auto& [key, number] : facts.numbers) entry.Set(key, number);
    return entry;
  };
  const Machine machine = ops::survey(info[0].ToBoolean());
  Napi::Array devices = Napi::Array::New(env);
  for (const Facts& device : machine.devices) devices.Set(devices.Length(), object(device));
  Napi::Object result = object(machine.facts);
  result.Set("devices", devices);
  return result;
}

Napi::Value NodeDevice::ops(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (const Op& op : registry_.ops()) {
    Napi::Array fields = Napi::Array::New(env);
    for (const Field& field : op.fields) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("name", field.name);
      entry.Set("kind", kind_name(field.kind));
      entry.Set("type", field.type);
      entry.Set("writes", field.writes);
      entry.Set("required", field.required);
      fields.Set(fields.Length(), entry);
    }
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", op.name);
    entry.Set("fields", fields);
    list.Set(list.Length(), entry);
  }
  return list;
}

Napi::Value NodeDevice::info(const Napi::CallbackInfo& info) {
  Napi::Object entry = Napi::Object::New(info.Env());
  for (const auto& [key, text] : queue_->backend()->texts()) entry.Set(key, text);
  for (const auto& [key, number] : queue_->backend()->numbers()) entry.Set(key, number);
  return entry;
}

Napi::Value NodeDevice::wrap(Napi::Env env, Buffer* buffer) {
  return Napi::External<Handle>::New(env, new Handle{buffer}, [](Napi::Env, Handle* handle) {
    if (handle->buffer) handle->buffer->disown();
    delete handle;
  });
}

Napi::Value NodeDevice::empty(const Napi::CallbackInfo& info) {
  const double bytes = info[0].As<Napi::Number>().DoubleValue();
  if (!(bytes >= 0 && bytes < kWhole)) throw Napi::Error::New(info.Env(), "a tensor cannot have " + std::to_string(bytes) + " bytes");
  return wrap(info.Env(), new Buffer(queue_->backend(), static_cast<size_t>(bytes)));
}

Napi::Value NodeDevice::upload(const Napi::CallbackInfo& info) {
  const auto bytes = info[0].As<Napi::Uint8Array>();
  auto* buffer = new Buffer(queue_->backend(), bytes.ByteLength());
  try {
    buffer->upload(bytes.Data());
  } catch (const std::exception& error) {
    buffer->disown();
    throw coded(Napi::Error::New(info.Env(), std::string("upload: ") + error.what()), code_of(error));
  }
  return wrap(info.Env(), buffer);
}

// An upload by a thread of the event loop's pool.
class NodeDevice::Bringing : public Napi::AsyncWorker {
 public:
  Bringing(NodeDevice* device, const Napi::CallbackInfo& info)
      : AsyncWorker(info.Env(), "pipe upload"), deferred_(Napi::Promise::Deferred::New(info.Env())), device_(Napi::Persistent(device->Value())) {
    if (info[0].IsTypedArray()) {
      const auto bytes = info[0].As<Napi::Uint8Array>();
      source_ = bytes.Data(), size_ = bytes.ByteLength();
      bytes_ = Napi::Persistent(bytes);
    } else {
      file_ = info[0].As<Napi::Number>().Int32Value();
      offset_ = info[1].As<Napi::Number>().Int64Value();
      size_ = static_cast<size_t>(info[2].As<Napi::Number>().Int64Value());
    }
    buffer_ = new Buffer(device->queue_->backend(), size_);
  }
  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      buffer_->fill([this](uint8_t* to, size_t at, size_t bytes) {
        if (source_) std::memcpy(to, source_ + at, bytes);
        else read_file(to, offset_ + static_cast<int64_t>(at), bytes);
      });
    } catch (const std::exception& error) {
      code_ = code_of(error);
      SetError(std::string("upload: ") + error.what());
    }
  }
  void OnOK() override { deferred_.Resolve(wrap(Env(), buffer_)); }
  void OnError(const Napi::Error& error) override {
    buffer_->disown();
    deferred_.Reject(coded(error, code_).Value());
  }

 private:
  void read_file(uint8_t* to, int64_t at, size_t bytes) const {
    for (size_t done = 0; done < bytes;) {
      const ssize_t got = pread(file_, to + done, bytes - done, at + static_cast<int64_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("the file cannot be read (%s)", std::strerror(errno));
      if (got == 0) fail("the file ended at byte %lld while it was read", static_cast<long long>(at + static_cast<int64_t>(done)));
      done += static_cast<size_t>(got);
    }
  }

  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference device_;  // it lives as long as this
  Napi::Reference<Napi::Uint8Array> bytes_;
  const uint8_t* source_ = nullptr;
  int file_ = -1;
  int64_t offset_ = 0;
  size_t size_ = 0;
  Buffer* buffer_;
  const char* code_ = nullptr;
};

Napi::Value NodeDevice::bring(const Napi::CallbackInfo& info) {
  auto* bringing = new Bringing(this, info);
  const Napi::Promise promise = bringing->promise();
  bringing->Queue();
  return promise;
}

// The hot path: called once an op, so it uses N-API itself. Types were checked by native/index.ts.
Napi::Value NodeDevice::enqueue(const Napi::CallbackInfo& info) {
  napi_env env = info.Env();
  const Op& op = registry_.ops().at(info[0].As<Napi::Number>().Uint32Value());
  std::vector<Argument> values(op.fields.size());
  const auto refuse = [&](size_t i, const char* what) -> Napi::Error {
    for (size_t j = 0; j < i; ++j) {
      if (values[j].buffer) values[j].buffer->drop();
    }
    return Napi::Error::New(env, op.name + ": " + op.fields[i].name + " " + what);
  };
  for (size_t i = 0; i < op.fields.size(); ++i) {
    const Field& field = op.fields[i];
    const napi_value argument = info[i + 1];
    if (field.kind == Field::Kind::tensor) {
      void* handle = nullptr;
      if (napi_get_value_external(env, argument, &handle) != napi_ok) continue;  // undefined: an optional one
      Buffer* buffer = static_cast<Handle*>(handle)->buffer;
      if (!buffer) throw refuse(i, "was released");
      buffer->retain();
      values[i].buffer = buffer;
    } else {
      double& number = values[i].number;
      if (napi_get_value_double(env, argument, &number) != napi_ok) throw refuse(i, "is missing");
      if (field.kind == Field::Kind::whole && !(std::trunc(number) == number && std::abs(number) <= kWhole)) {
        throw refuse(i, "must be a whole number");
      }
    }
  }
  if (!recording_) return Napi::Number::New(env, static_cast<double>(queue_->enqueue(op, std::move(values))));
  const uint64_t ticket = queue_->take_ticket();
  recording_->steps.push_back({&op, ticket, std::move(values)});
  return Napi::Number::New(env, static_cast<double>(ticket));
}

void NodeDevice::record(const Napi::CallbackInfo& info) {
  if (recording_) throw Napi::Error::New(info.Env(), "record: a recording is under way");
  recording_ = std::make_shared<Program>(queue_->backend());
}

Napi::Value NodeDevice::recorded(const Napi::CallbackInfo& info) {
  return Napi::External<ProgramHandle>::New(info.Env(), new ProgramHandle{std::move(recording_)}, [](Napi::Env, ProgramHandle* handle) { delete handle; });
}

Napi::Value NodeDevice::replay(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Program>& program = info[0].As<Napi::External<ProgramHandle>>().Data()->program;
  if (!program) throw Napi::Error::New(info.Env(), "run: the program was disposed");
  if (recording_) throw Napi::Error::New(info.Env(), "run: a recording is under way");
  return Napi::Number::New(info.Env(), static_cast<double>(queue_->enqueue(program)));
}

Napi::Value NodeDevice::form(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Program>& program = info[0].As<Napi::External<ProgramHandle>>().Data()->program;
  if (!program) throw Napi::Error::New(info.Env(), "form: the program was disposed");
  std::lock_guard lock(program->mutex);
  return Napi::String::New(info.Env(), program->form);
}

void NodeDevice::forget(const Napi::CallbackInfo& info) { info[0].As<Napi::External<ProgramHandle>>().Data()->program.reset(); }

void NodeDevice::write(const Napi::CallbackInfo& info) {
  Buffer* const buffer = info[0].As<Napi::External<Handle>>().Data()->buffer;
  const auto bytes = info[1].As<Napi::Uint8Array>();
  if (!buffer) throw Napi::Error::New(info.Env(), "write: the tensor was released");
  if (recording_) throw Napi::Error::New(info.Env(), "write: a recording is under way");
  if (bytes.ByteLength() != buffer->bytes()) throw Napi::Error::New(info.Env(), "write: the tensor has another size");
  buffer->retain();
  queue_->write(buffer, {bytes.Data(), bytes.Data() + bytes.ByteLength()});
}

Napi::Value NodeDevice::wait(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (recording_) throw Napi::Error::New(env, "read: a recording is under way");
  auto wait = std::make_unique<Wait>(Wait{Napi::Promise::Deferred::New(env), {}, nullptr});
  Napi::Promise promise = wait->deferred.Promise();
  Buffer* source = nullptr;
  uint8_t* target = nullptr;
  if (info[0].IsExternal()) {
    source = info[0].As<Napi::External<Handle>>().Data()->buffer;
    if (!source) throw Napi::Error::New(env, "read: the tensor was released");
    auto bytes = Napi::Uint8Array::New(env, source->bytes());
    target = bytes.Data();
    in_large_pages(target, bytes.ByteLength());
    wait->bytes = Napi::Persistent(bytes);
    source->retain();
  }
  if (waits_++ == 0) {
    Ref();
    answers_.Ref(env);
  }
  Wait* raw = wait.release();
  queue_->wait(source, target, [this, raw](std::shared_ptr<const Failure> failure) {
    raw->failure = std::move(failure);
    answers_.NonBlockingCall(raw);
  });
  return promise;
}

void NodeDevice::answer(Napi::Env env, Napi::Function, NodeDevice* device, Wait* raw) {
  const std::unique_ptr<Wait> wait(raw);
  if (static_cast<napi_env>(env) == nullptr) return;  // the process is ending
  Napi::HandleScope scope(env);
  if (--device->waits_ == 0) {
    device->answers_.Unref(env);
    device->Unref();
  }
  if (wait->failure) {
    Napi::Error error = coded(Napi::Error::New(env, wait->failure->message), wait->failure->code);
    error.Set("ticket", static_cast<double>(wait->failure->ticket));
    wait->deferred.Reject(error.Value());
  } else {
    wait->deferred.Resolve(wait->bytes.IsEmpty() ? env.Undefined() : Napi::Value(wait->bytes.Value()));
  }
}

void NodeDevice::release(const Napi::CallbackInfo& info) {
  Handle* handle = info[0].As<Napi::External<Handle>>().Data();
  if (!handle->buffer) return;
  handle->buffer->disown();
  handle->buffer = nullptr;
}

Napi::Value NodeDevice::live_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(queue_->backend()->ledger().live()));
}

Napi::Value NodeDevice::peak_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(queue_->backend()->ledger().peak()));
}

Napi::Value NodeDevice::stats(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  const std::vector<OpStats> stats = queue_->stats();
  for (size_t i = 0; i < stats.size(); ++i) {
    if (stats[i].calls == 0) continue;
    Napi::Object entry = Napi::Object::New(info.Env());
    entry.Set("calls", static_cast<double>(stats[i].calls));
    entry.Set("seconds", stats[i].seconds);
    result.Set(registry_.ops()[i].name, entry);
  }
  return result;
}

Napi::Value NodeDevice::progress(const Napi::CallbackInfo& info) {
  std::vector<uint64_t> failed;
  const uint64_t done = queue_->progress(failed);
  Napi::Array tickets = Napi::Array::New(info.Env());
  for (uint64_t ticket : failed) tickets.Set(tickets.Length(), static_cast<double>(ticket));
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("done", static_cast<double>(done));
  result.Set("failed", tickets);
  return result;
}

}  // namespace ops
