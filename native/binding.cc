// The addon: the list of ops, and the device that runs them. The same file for every backend.
#include <napi.h>

#include "core/node_device.h"
#include "ops/add/add.h"
#include "ops/add-bias/add_bias.h"
#include "ops/attention/attention.h"
#include "ops/cross-entropy/cross_entropy.h"
#include "ops/embed/embed.h"
#include "ops/gemm/gemm.h"
#include "ops/kl-divergence/kl_divergence.h"
#include "ops/paste/paste.h"
#include "ops/rmsnorm/rmsnorm.h"
#include "ops/rope/rope.h"
#include "ops/silu-mul/silu_mul.h"
#include "ops/zeros/zeros.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  static const ops::Registry registry = [] {
    ops::Registry list;
    list.add("add", ops::add);
    list.add("add_bias", ops::add_bias);
    list.add("attention", ops::attention);
    list.add("cross_entropy", ops::cross_entropy);
    list.add("embed", ops::embed);
    list.add("gemm", ops::gemm);
    list.add("kl_divergence", ops::kl_divergence);
    list.add("paste", ops::paste);
    list.add("rmsnorm", ops::rmsnorm);
    list.add("rope", ops::rope);
    list.add("silu_mul", ops::silu_mul);
    list.add("zeros", ops::zeros);
    return list;
  }();
  exports.Set("Device", ops::NodeDevice::define(env, registry));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, initialize)
