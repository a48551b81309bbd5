// Compiled for compute capability 9.0a alone.
#include "prompt_warpgroup.h"

#include "../../core/cuda.cuh"
#include "prompt_codes.cuh"
#include "prompt_warpgroup_kernel.cuh"

namespace ops::prompt {

namespace {

constexpr int kPanel = 128;
// Vectors up to which decoding for each panel costs less than writing what is decoded.
constexpr int64_t kMostVectors = 640;
// Microseconds of a chunk.
constexpr double kChunk = 0.9;

int attribute(cudaDeviceAttr which) {
  int device, value;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

template <class Pairs, int K, bool natural, int panel>
void run(const ProductArgs& args, int pieces) {
  const auto kernel = warpgroup_product_kernel<Pairs, K, natural, panel>;
  constexpr size_t bytes = warpgroup_bytes<Pairs, panel>();
  allow_shared(kernel, bytes);
  const dim3 grid((args.m + 32 * kStrips - 1) / (32 * kStrips), pieces, (args.vectors + panel - 1) / panel);
  check(launch(kernel, grid, 32 * kHalves, bytes, stream(), true, args));
}

}  // namespace

bool card_has_warpgroups() {
  return card_overlaps() && attribute(cudaDevAttrComputeCapabilityMajor) == 9 && attribute(cudaDevAttrComputeCapabilityMinor) == 0;
}

ProductPlan plan_of_warpgroups(const TrellisPromptArgs& a, int64_t vectors) {
  if (vectors > kMostVectors) return {};
  const int panel = vectors <= kPanel / 2 ? kPanel / 2 : kPanel;
  return {pieces_of(a.rows, a.columns, vectors, panel, kChunk, multiprocessors()), panel, !a.tensor_core};
}

void warpgroup_product(const TrellisPromptArgs& a, const ProductArgs& args, const ProductPlan& plan) {
  with_code(a, [&]<class Pairs, int K, bool natural>() {
    plan.panel == kPanel ? run<Pairs, K, natural, kPanel>(args, plan.pieces) : run<Pairs, K, natural, kPanel / 2>(args, plan.pieces);
  });
}

}  // namespace ops::prompt
