// Three kernels: x's transform, straight into the parts that the product reads; the product; the transforms of all outputs. The product's
// blocks begin with the first kernel, those of the third wait for the second.
#include "linear.h"

#include "../../core/error.h"
#include "../../ops/add/add.h"
#include "../../ops/hadamard/hadamard.h"
#include "../../ops/rmsnorm/rmsnorm.h"
#include "../../ops/silu-mul/silu_mul.h"
#include "product.h"
#include "product_launch.cuh"
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

// What kernels of one part each would do, where the fused ones do not fit.
void compose(const TrellisLinearArgs& a) {
  const int64_t rows = a.rows();
  Scratch<float> incoherent(a.t * a.columns), z(a.t * rows), made(a.weight || a.gate ? a.t * a.columns : 1);
  const auto *x = reinterpret_cast<const uint8_t*>(a.x), *gate = reinterpret_cast<const uint8_t*>(a.gate);
  auto* const into = reinterpret_cast<uint8_t*>(static_cast<float*>(made));
  if (a.weight) rmsnorm({x, a.weight, into, a.t, a.columns, a.eps, false, false});
  if (a.gate) silu_mul({gate, x, into, a.t * a.columns, false});
  hadamard({a.weight || a.gate ? static_cast<const float*>(made) : a.x, a.su, incoherent, a.t, a.columns, a.block, a.factor, false, false});
  trellis_product({incoherent, a.arranged, a.entries, z, a.t, rows, a.columns, a.K, a.code, a.tensor_core, false});
  for (int64_t b = 0; b < a.t; ++b) {
    const float* from = z + b * rows;
    for (const TrellisLinearArgs::Output& o : a.outputs) {
      if (o.rows > 0) hadamard({from, o.sv, o.y + b * o.rows, 1, o.rows, o.block, o.factor, false, true});
      from += o.rows;
    }
  }
  for (const TrellisLinearArgs::Output& o : a.outputs) {
    if (o.rows > 0 && o.add) add({o.y, o.add, o.y, a.t * o.rows, 1, 1});
  }
}

}  // namespace

void trellis_linear(const TrellisLinearArgs& a) {
  const Card here = card();
  bool all = a.su && fits(a.columns, a.block, a.factor, here);
  for (const TrellisLinearArgs::Output& o : a.outputs) all = all && (o.rows == 0 || fits(o.rows, o.block, o.factor, here));
  if (!all) return compose(a);

  const int rows = static_cast<int>(a.rows()), n = static_cast<int>(a.columns);
  const bool natural = !a.tensor_core;
  Transforms before{};
  before.count = 1;
  Transform& in = before.of[0] = Transform::of(a.columns, a.block, a.factor);
  in.x = a.x, in.stride = n, in.before = a.su, in.weight = a.weight, in.gate = a.gate, in.eps = a.eps, in.mix = mixer(in.factor, false);

  Transforms after{};
  int blocks = 0;
  Scratch<float> z(a.t * rows);
  const float* from = z;
  for (const TrellisLinearArgs::Output& o : a.outputs) {
    if (o.rows == 0) continue;
    Transform& out = after.of[after.count++] = Transform::of(o.rows, o.block, o.factor);
    out.x = from, out.stride = rows, out.after = o.sv, out.add = o.add, out.mix = mixer(out.factor, true), out.y = o.y;
    from += o.rows, blocks += out.slices;
  }
  for_code(static_cast<ProductCode>(a.code), a.entries, here, [&]<class Code>(Args args) {
    args.packed = reinterpret_cast<const uint32_t*>(a.arranged), args.m = rows, args.n = n;
    const Parts<Code> parts(a.t, n, in.slices);
    const auto begin = [&](auto kernel) {
      enqueue(kernel, before, in.slices, a.t, here.overlaps, static_cast<unsigned char*>(parts.digits), static_cast<float*>(parts.units), natural);
    };
    if (a.weight) begin(incoherent_kernel<Code, Input::normed>);
    else if (a.gate) begin(incoherent_kernel<Code, Input::gated>);
    else begin(incoherent_kernel<Code, Input::scaled>);
    multiply<Code>(args, static_cast<int>(a.K), natural, parts, z, here);
  });
  enqueue(coherent_kernel, after, blocks, a.t, here.overlaps);
}

}  // namespace ops
