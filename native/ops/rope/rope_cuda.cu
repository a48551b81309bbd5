#include "rope.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "turn.cuh"

namespace ops {

namespace {

// A thread turns WIDTH neighbouring pairs: it reads both halves before it writes either, so out may be x.
template <class T, int WIDTH>
void run(const RopeArgs& args) {
  const T* x = reinterpret_cast<const T*>(args.x);
  T* out = reinterpret_cast<T*>(args.out);
  const int64_t across = args.half / WIDTH;
  each(args.t * args.heads * across, [args, x, out, across] __device__(int64_t i) {
    const int64_t l = i % across * WIDTH, head = i / across, token = head / args.heads;
    const int64_t angle = (args.positions ? args.positions[token] : token % args.length) * args.half + l;
    const int64_t low = head * 2 * args.half + l, high = low + args.half;
    float a[kVector], b[kVector];
    load<WIDTH>(x + low, a), load<WIDTH>(x + high, b);
    turn<WIDTH>(a, b, args.cos + angle, args.sin + angle);
    store<WIDTH>(out + low, a), store<WIDTH>(out + high, b);
  });
}

template <class T>
void run(const RopeArgs& args) {
  args.half % kVector == 0 ? run<T, kVector>(args) : run<T, 1>(args);
}

}  // namespace

void rope(const RopeArgs& args) {
  if (args.positions) {
    const std::vector<int32_t> positions = to_host(args.positions, args.t);
    for (int64_t i = 0; i < args.t; ++i) {
      if (positions[i] < 0 || positions[i] >= args.length) {
        fail("row %lld is at position %d, and there are cosines for %lld", (long long)i, positions[i], (long long)args.length);
      }
    }
  }
  args.bf16 ? run<uint16_t>(args) : run<float>(args);
}

}  // namespace ops
