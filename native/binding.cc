// The addon: the list of ops, and the device that runs them. The same file for every backend.
#include <napi.h>

#include "codebooks/scalar/nearest.h"
#include "codebooks/tiles/tiles.h"
#include "codebooks/trellis/product.h"
#include "codebooks/trellis/trellis_encode.h"
#include "core/node_device.h"
#include "ops/adam/adam.h"
#include "ops/add-bias/add_bias.h"
#include "ops/add/add.h"
#include "ops/argmax/argmax.h"
#include "ops/attend-cache/attend_cache.h"
#include "ops/attention-backward/attention_backward.h"
#include "ops/attention/attention.h"
#include "ops/block-ldl/block_ldl.h"
#include "ops/cast/cast.h"
#include "ops/column-dots/column_dots.h"
#include "ops/count-non-finite/count_non_finite.h"
#include "ops/cross-entropy-gradient/cross_entropy_gradient.h"
#include "ops/cross-entropy/cross_entropy.h"
#include "ops/damp/damp.h"
#include "ops/embed/embed.h"
#include "ops/gemm/gemm.h"
#include "ops/golden-section/golden_section.h"
#include "ops/gram/gram.h"
#include "ops/hadamard/hadamard.h"
#include "ops/kl-divergence/kl_divergence.h"
#include "ops/kl-gradient/kl_gradient.h"
#include "ops/mirror/mirror.h"
#include "ops/paste/paste.h"
#include "ops/proxy-error/proxy_error.h"
#include "ops/rmsnorm-backward/rmsnorm_backward.h"
#include "ops/rmsnorm/rmsnorm.h"
#include "ops/rope/rope.h"
#include "ops/scale/scale.h"
#include "ops/silu-mul-backward/silu_mul_backward.h"
#include "ops/silu-mul/silu_mul.h"
#include "ops/sum-squares/sum_squares.h"
#include "ops/table-gradient/table_gradient.h"
#include "ops/transpose/transpose.h"
#include "ops/zeros/zeros.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  static const ops::Registry registry = [] {
    ops::Registry list;
    list.add("adam", ops::adam);
    list.add("add", ops::add);
    list.add("add_bias", ops::add_bias);
    list.add("argmax", ops::argmax);
    list.add("attend_cache", ops::attend_cache);
    list.add("attention", ops::attention);
    list.add("attention_backward", ops::attention_backward);
    list.add("block_ldl", ops::block_ldl);
    list.add("cast", ops::cast);
    list.add("column_dots", ops::column_dots);
    list.add("count_non_finite", ops::count_non_finite);
    list.add("cross_entropy", ops::cross_entropy);
    list.add("cross_entropy_gradient", ops::cross_entropy_gradient);
    list.add("damp", ops::damp);
    list.add("embed", ops::embed);
    list.add("gemm", ops::gemm);
    list.add("golden_section", ops::golden_section);
    list.add("gram", ops::gram);
    list.add("hadamard", ops::hadamard);
    list.add("kl_divergence", ops::kl_divergence);
    list.add("kl_gradient", ops::kl_gradient);
    list.add("mirror", ops::mirror);
    list.add("paste", ops::paste);
    list.add("proxy_error", ops::proxy_error);
    list.add("rmsnorm", ops::rmsnorm);
    list.add("rmsnorm_backward", ops::rmsnorm_backward);
    list.add("rope", ops::rope);
    list.add("scale", ops::scale);
    list.add("silu_mul", ops::silu_mul);
    list.add("silu_mul_backward", ops::silu_mul_backward);
    list.add("sum_squares", ops::sum_squares);
    list.add("table_gradient", ops::table_gradient);
    list.add("transpose", ops::transpose);
    list.add("zeros", ops::zeros);
    list.add("nearest", ops::nearest);
    list.add("tiles_decode", ops::tiles_decode);
    list.add("tiles_pack", ops::tiles_pack);
    list.add("tiles_table", ops::tiles_table);
    list.add("tiles_unpack", ops::tiles_unpack);
    list.add("trellis_arrange", ops::trellis_arrange);
    list.add("trellis_encode", ops::trellis_encode);
    list.add("trellis_product", ops::trellis_product);
    return list;
  }();
  exports.Set("Device", ops::NodeDevice::define(env, registry));
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, initialize)
