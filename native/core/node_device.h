// defines: ops::NodeDevice, a queue as a JavaScript object. Knows N-API, knows no op.
#pragma once
#include <napi.h>

#include <memory>

#include "queue.h"

namespace ops {

// new Device(number): the machine's settings as the PIPE_… variables say now. Methods as used by native/index.ts.
class NodeDevice : public Napi::ObjectWrap<NodeDevice> {
 public:
  // The class, with `registry` (which must live as long as the process) as its list of ops.
  static Napi::Function define(Napi::Env env, const Registry& registry);
  explicit NodeDevice(const Napi::CallbackInfo& info);
  ~NodeDevice() override;

 private:
  struct Handle;
  struct ProgramHandle;
  struct Wait;
  class Bringing;
  static Napi::Value survey(const Napi::CallbackInfo& info);  // (libraries: boolean) → Machine's facts, and devices: facts[]
  Napi::Value ops(const Napi::CallbackInfo& info);       // [{ name, fields: [{ name, kind, type, writes, required }] }]
  Napi::Value info(const Napi::CallbackInfo& info);      // Backend::texts and numbers
  Napi::Value empty(const Napi::CallbackInfo& info);     // (bytes) → handle
  Napi::Value upload(const Napi::CallbackInfo& info);    // (Uint8Array) → handle
  Napi::Value bring(const Napi::CallbackInfo& info);     // (Uint8Array) or (file descriptor, offset, bytes) → Promise<handle>
  Napi::Value enqueue(const Napi::CallbackInfo& info);   // (op's index, …values in the order of its fields) → ticket
  void record(const Napi::CallbackInfo& info);           // (): until `recorded`, `enqueue` collects calls
  Napi::Value recorded(const Napi::CallbackInfo& info);  // () → program
  Napi::Value replay(const Napi::CallbackInfo& info);    // (program) → ticket
  Napi::Value form(const Napi::CallbackInfo& info);      // (program) → Backend::form
  void forget(const Napi::CallbackInfo& info);           // (program)
  void write(const Napi::CallbackInfo& info);            // (handle, Uint8Array of its size)
  Napi::Value wait(const Napi::CallbackInfo& info);      // (handle?) → Promise<Uint8Array | undefined>
  void release(const Napi::CallbackInfo& info);          // (handle)
  Napi::Value live_bytes(const Napi::CallbackInfo& info);
  Napi::Value peak_bytes(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);     // { op: { calls, seconds } }
  Napi::Value progress(const Napi::CallbackInfo& info);  // { done: ticket, failed: tickets }

  static Napi::Value wrap(Napi::Env env, Buffer* buffer);
  void stop();
  static void leave(void* device);  // when the environment ends before the object does
  static void answer(Napi::Env env, Napi::Function, NodeDevice* device, Wait* wait);
  using Answers = Napi::TypedThreadSafeFunction<NodeDevice, Wait, &NodeDevice::answer>;

  const Registry& registry_;
  std::unique_ptr<Queue> queue_;
  Answers answers_;
  std::shared_ptr<Program> recording_;
  int waits_ = 0;  // unanswered; the process and this object stay alive while there are any
};

}  // namespace ops
