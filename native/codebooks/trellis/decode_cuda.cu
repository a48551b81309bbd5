#include "decode.h"

#include "../../core/shared_memory.cuh"
#include "../../core/error.h"
#include "decode_kernel.cuh"
#include "product_code.h"

namespace ops {

namespace {

using namespace product;

template <class Pairs, int K, bool natural, class T>
void run(const TrellisDecodeArgs& a) {
  DecodeArgs args{};
  args.chunks = static_cast<int>((a.columns + 63) / 64), args.n = static_cast<int>(a.columns), args.count = static_cast<int>(a.count);
  args.packed = reinterpret_cast<const uint32_t*>(a.arranged) + a.first / 32 * args.chunks * 64 * K;
  args.entries = reinterpret_cast<const uint32_t*>(a.entries), args.values = a.values;
  const auto kernel = decode_kernel<Pairs, K, natural, T>;
  // As many warps as there is shared memory for.
  int warps = kDecodeWarps;
  while (warps > 1 && decode_bytes<Pairs>(warps) > most_shared()) warps /= 2;
  allow_shared(kernel, decode_bytes<Pairs>(warps));
  const int64_t all = (a.count + 31) / 32 * args.chunks, blocks = (all + warps - 1) / warps;
  kernel<<<static_cast<unsigned>(std::min<int64_t>(blocks, multiprocessors())), warps * 32, decode_bytes<Pairs>(warps), stream()>>>(args);
  launched();
}

template <class Pairs, int K>
void run(const TrellisDecodeArgs& a) {
  if (a.f16) a.tensor_core ? run<Pairs, K, false, __half>(a) : run<Pairs, K, true, __half>(a);
  else a.tensor_core ? run<Pairs, K, false, float>(a) : run<Pairs, K, true, float>(a);
}

template <class Pairs>
void run(const TrellisDecodeArgs& a) {
  switch (a.K) {
    case 1: return run<Pairs, 1>(a);
    case 2: return run<Pairs, 2>(a);
    case 3: return run<Pairs, 3>(a);
    default: return run<Pairs, 4>(a);
  }
}

}  // namespace

void trellis_decode(const TrellisDecodeArgs& a) {
  switch (static_cast<ProductCode>(a.code)) {
    case ProductCode::hyb: return run<HybPairs>(a);
    case ProductCode::mad1: return run<Mad1Pairs>(a);
    case ProductCode::inst3: return run<HalvesPairs<89226354u, 64248484u>>(a);
    case ProductCode::mul1: return run<Mul1Pairs>(a);
    case ProductCode::mcg: return run<HalvesPairs<0xcbac1fedu, 0>>(a);
  }
}

}  // namespace ops
