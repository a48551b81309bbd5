// The addon: the list of ops, and the device that runs them. The same file for every backend.
#include <napi.h>

#include "core/node_device.h"
#include "ops/add/add.h"
#include "ops/gemm/gemm.h"
#include "ops/paste/paste.h"
#include "ops/zeros/zeros.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  static const ops::Registry registry = [] {
    ops::Registry list;
    list.add("add", ops::add);
    list.add("gemm", ops::gemm);
    list.add("paste", ops::paste);
    list.add("zeros", ops::zeros);
    return list;
  }();
  exports.Set("Device", ops::NodeDevice::define(env, registry));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, initialize)
