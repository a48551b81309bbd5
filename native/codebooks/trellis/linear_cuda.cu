// A product is two kernels, the second of which is on its way while the first runs: all that is between it and the product before it, straight
// into the digits that it reads (runs_kernel.cuh), and the product. Outputs that somebody else reads are finished by one kernel. On cards before
// compute capability 9.0, and where runs do not fit, by the kernels of transform_kernel.cuh, or those of single ops.
#include "linear.h"

#include <optional>

#include "../../core/error.h"
#include "linear_by_ops.h"
#include "product_launch.cuh"
#include "runs_launch.cuh"
#include "transform_kernel.cuh"

namespace ops {

using namespace product;

namespace {

// M or its transpose as transform_kernel reads it, rows of a slice side by side.
const float* mixer(int factor, bool transposed) {
  if (factor == 1) return nullptr;
  const int across = (factor + kSlice - 1) / kSlice * kSlice;
  return constant("slices of hadamard " + std::to_string(factor) + (transposed ? " transposed" : ""), [&] {
    const std::vector<float> matrix = hadamard_matrix(factor);
    std::vector<float> mix(factor * across);
    for (int k = 0; k < factor; ++k) {
      for (int r = 0; r < factor; ++r) mix[k * across + r] = transposed ? matrix[r * factor + k] : matrix[k * factor + r];
    }
    return mix;
  });
}

// Whether transform_kernel can: with a factor, one block must be all of the row.
bool fits(int64_t n, int64_t block, int64_t factor, const Card& card) {
  return (factor == 1 || block == n) && block / factor <= kMostRun && n % block == 0 && transform_bytes(Transform::of(n, block, factor)) <= card.most_shared;
}

template <class Kernel>
void enqueue(Kernel kernel, const Transforms& transforms, int blocks, int64_t t, bool overlap, auto... rest) {
  int bytes = 0;
  for (int i = 0; i < transforms.count; ++i) bytes = std::max(bytes, transform_bytes(transforms.of[i]));
  allow_shared(kernel, bytes);
  check(ops::launch(kernel, dim3(blocks, static_cast<unsigned>(t)), kTransformThreads, bytes, stream(), overlap, transforms, rest...));
}

// Those of the outputs that there are, each with its y.
template <size_t count>
void finish(const std::array<Output, count>& outputs, int64_t t, const Card& here) {
  std::vector<Output> all;
  std::ranges::copy_if(outputs, std::back_inserter(all), [](const Output& o) { return o.z != nullptr; });
  if (finish_runs(all, t, here)) return;
  Transforms after{};
  int blocks = 0;
  for (const Output& o : all) {
    if (!fits(o.rows, o.block, o.factor, here)) {
      finish_by_ops(o, t);
      continue;
    }
    Transform& out = after.of[after.count++] = Transform::of(o.rows, o.block, o.factor);
    out.x = o.z, out.stride = o.stride, out.after = o.sv, out.bias = o.bias, out.add = o.add, out.mix = mixer(out.factor, true), out.y = o.y;
    blocks += out.slices;
  }
  if (after.count > 0) enqueue(coherent_kernel, after, blocks, t, here.overlaps);
  for (const Output& o : all) {
    if (fits(o.rows, o.block, o.factor, here)) norm_heads(o, t);
  }
}

}  // namespace

void trellis_linear(const TrellisLinearArgs& a) {
  const Card here = card();
  const int n = static_cast<int>(a.columns);
  const bool natural = !a.tensor_core;
  const auto for_product = [&](auto f) {
    for_code(static_cast<ProductCode>(a.code), a.entries, here, [&]<class Code>(Args args) {
      args.packed = reinterpret_cast<const uint32_t*>(a.arranged), args.m = static_cast<int>(a.rows), args.n = n;
      f.template operator()<Code>(args);
    });
  };
  if (const std::optional<Plan> plan = plan_of(a, here)) {
    return for_product([&]<class Code>(const Args& args) {
      const Parts<Code> parts(a.t, n, plan->slots);
      begin_runs<Code>(a, *plan, parts);
      multiply<Code>(args, static_cast<int>(a.K), natural, parts, a.z, here);
    });
  }

  std::array<Output, 2> unfinished{a.unfinished_x, a.unfinished_gate};
  std::array<std::optional<Scratch<float>>, 2> own;
  for (int i = 0; i < 2; ++i) {
    if (unfinished[i].z && !unfinished[i].y) unfinished[i].y = own[i].emplace(a.t * a.columns);
  }
  finish(unfinished, a.t, here);
  const float *x = unfinished[0].z ? unfinished[0].y : a.x, *gate = unfinished[1].z ? unfinished[1].y : a.gate;
  if (!fits(a.columns, a.block, a.factor, here)) {
    Scratch<float> incoherent(a.t * a.columns), made(a.weight || gate ? a.t * a.columns : 1);
    return linear_by_ops(a, x, gate, made, incoherent);
  }

  Transforms before{};
  before.count = 1;
  Transform& in = before.of[0] = Transform::of(a.columns, a.block, a.factor);
  in.x = x, in.stride = n, in.before = a.su, in.weight = a.weight, in.gate = gate, in.eps = a.eps, in.mix = mixer(in.factor, false);
  for_product([&]<class Code>(const Args& args) {
    const Parts<Code> parts(a.t, n, in.slices);
    const auto begin = [&](auto kernel) {
      enqueue(kernel, before, in.slices, a.t, here.overlaps, static_cast<unsigned char*>(parts.digits), static_cast<float*>(parts.units));
    };
    if (a.weight) begin(incoherent_kernel<Code, Input::normed>);
    else if (gate) begin(incoherent_kernel<Code, Input::gated>);
    else begin(incoherent_kernel<Code, Input::scaled>);
    multiply<Code>(args, static_cast<int>(a.K), natural, parts, a.z, here);
  });
}

void trellis_finish(const TrellisFinishArgs& a) { finish(a.outputs, a.t, card()); }

}  // namespace ops
