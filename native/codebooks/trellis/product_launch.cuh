// defines: card, Parts, for_code, multiply: what the ops over packed matrices share on their way to a kernel.
#pragma once
#include "../../core/shared_memory.cuh"
#include "product_code.h"
#include "product_cuda.h"

namespace ops::product {

inline Card card() {
  const bool overlaps = card_overlaps();
  return {multiprocessors(), static_cast<int>(ops::most_shared() - (overlaps ? 0 : kSharedStart)), overlaps};
}

// What becomes of t vectors of n numbers before a product. slots: in how many pieces Σx is left.
template <class Code>
struct Parts {
  const int64_t t, bytes;
  const int slots;
  Scratch<unsigned char> digits;
  Scratch<float> units;
  Parts(int64_t t, int n, int slots)
      : t(t), bytes(int64_t{Code::parts} * padded(n) * (Code::bytes ? 1 : 2)), slots(slots), digits(t * bytes), units(t * (1 + slots)) {}
};

// f<Code>(args) with what the code fixes of args.
template <class F>
void for_code(ProductCode code, const uint16_t* entries, const Card& card, F f) {
  Args args{};
  args.table = reinterpret_cast<const uint32_t*>(entries);
  if (code == ProductCode::hyb) {
    args.factor = 2;
    if (shared_bytes<Hyb<true>>(kWarps, kStrips, 1) <= card.most_shared) f.template operator()<Hyb<true>>(args);
    else f.template operator()<Hyb<false>>(args);
  } else if (code == ProductCode::inst3 || code == ProductCode::mcg) {
    args.factor = code == ProductCode::mcg ? 0xcbac1fed : 89226354, args.addend = code == ProductCode::mcg ? 0 : 64248484;
    args.mask = 0x8fff8fff;
    f.template operator()<Halves>(args);
  } else {
    const ByteSum sum = byte_sum_of(code);
    args.factor = sum.factor, args.addend = sum.addend;
    args.gain = static_cast<float>(sum.gain), args.offset = static_cast<float>(sum.offset - 510 * sum.gain);
    f.template operator()<Bytes>(args);
  }
}

// y f32 [t, m] of the prepared vectors, in as many launches as there are groups of them.
template <class Code>
void multiply(Args args, int K, bool natural, const Parts<Code>& x, float* y, const Card& card) {
  args.slots = x.slots;
  for (int64_t first = 0; first < x.t; first += args.t) {
    const Choice choice = choose<Code>(K, natural, static_cast<int>(x.t - first), card.most_shared);
    args.t = static_cast<int>(std::min<int64_t>(choice.most, x.t - first));
    args.x = x.digits + first * x.bytes, args.units = x.units + first * (1 + x.slots), args.y = y + first * args.m;
    check(choice.launch(args, card, stream()));
  }
}

}  // namespace ops::product
