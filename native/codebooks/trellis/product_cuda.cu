// The ops trellis_arrange and trellis_product: x into the parts that the kernels read, then as many launches as there are groups of vectors.
#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "product.h"
#include "product_code.h"
#include "product_cuda.h"
#include "product_operands.cuh"

namespace ops {

namespace {

using namespace product;

struct Card {
  int most_shared;
  bool overlaps;  // kernels with the one before
};
Card card() {
  int device, shared, major;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return {shared, major >= 9};
}

template <class Code>
void run(const TrellisProductArgs& a, Args args, const Card& card) {
  const int64_t t = a.t, bytes = int64_t{Code::parts} * padded(args.n) * (Code::bytes ? 1 : 2);
  const bool natural = !a.tensor_core;
  Scratch<unsigned char> parts(t * bytes);
  Scratch<float> units(2 * t);
  // Not begun early: the product reads weights and table before it waits, which whoever wrote them has then left behind.
  prepare_kernel<Code><<<static_cast<unsigned>(t), 1024, 0, stream()>>>(a.x, parts, units, args.n, natural);
  launched();
  for (int64_t first = 0; first < t; first += args.t) {
    const Choice choice = choose<Code>(static_cast<int>(a.K), natural, static_cast<int>(t - first), card.most_shared);
    args.t = static_cast<int>(std::min<int64_t>(choice.most, t - first));
    args.x = parts + first * bytes, args.units = units + 2 * first, args.y = a.y + first * a.rows;
    check(choice.launch(args, multiprocessors(), card.overlaps, stream()));
  }
}

}  // namespace

void trellis_arrange(const TrellisArrangeArgs& a) {
  const int rows = static_cast<int>(a.rows), columns = static_cast<int>(a.columns), K = static_cast<int>(a.K);
  const int64_t size = (a.rows + kRows - 1) / kRows * (padded(columns) / 64) * 256 * K;
  arrange_kernel<<<blocks_for(size), kThreads, 0, stream()>>>(reinterpret_cast<const unsigned char*>(a.packed), a.arranged, size, rows, columns, K,
                                                             a.tensor_core);
  launched();
}

void trellis_product(const TrellisProductArgs& a) {
  if (a.int8) fail("products in int8 are the CPU's");
  const auto code = static_cast<ProductCode>(a.code);
  Args args{};
  args.packed = reinterpret_cast<const uint32_t*>(a.arranged), args.table = reinterpret_cast<const uint32_t*>(a.entries);
  args.m = static_cast<int>(a.rows), args.n = static_cast<int>(a.columns);
  const Card here = card();
  switch (code) {
    case ProductCode::hyb:
      if (shared_bytes<Hyb<true>>(kWarps, 1) <= here.most_shared) run<Hyb<true>>(a, args, here);
      else run<Hyb<false>>(a, args, here);
      return;
    case ProductCode::inst3:
      args.factor = 89226354, args.addend = 64248484;
      return run<Halves>(a, args, here);
    case ProductCode::mcg:
      args.factor = 0xcbac1fed;
      return run<Halves>(a, args, here);
    default: {
      const ByteSum sum = byte_sum_of(code);
      args.factor = sum.factor, args.addend = sum.addend;
      args.gain = static_cast<float>(sum.gain), args.offset = static_cast<float>(sum.offset - 510 * sum.gain);
      return run<Bytes>(a, args, here);
    }
  }
}

}  // namespace ops
