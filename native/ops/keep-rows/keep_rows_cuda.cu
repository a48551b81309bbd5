#include "keep_rows.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "../../core/overlap.cuh"
#include "../rope/turn.cuh"

namespace ops {

namespace {

// A thread has WIDTH neighbouring pairs of a head of q, k or v.
template <class Given, class Kept, class Seen, int WIDTH>
__global__ void __launch_bounds__(kThreads) keep_rows_kernel(const KeepRowsArgs args) {
  wait_for_previous();
  let_next_begin();
  const int half = static_cast<int>(args.half), across = half / WIDTH, heads = static_cast<int>(args.heads), kv = static_cast<int>(args.kv_heads);
  const int at = blockIdx.x * kThreads + threadIdx.x, which = at / across, l = at % across * WIDTH;
  if (which >= heads + 2 * kv) return;
  const int64_t i = blockIdx.y;
  const bool is_q = which < heads, is_v = which >= heads + kv;
  const int64_t place = is_q ? (i * heads + which) * 2 * half : (i * kv + (which - heads) % kv) * 2 * half;
  const Given* const from = reinterpret_cast<const Given*>(is_q ? args.q : is_v ? args.v : args.k) + place + l;
  float a[kVector], b[kVector];
  load<WIDTH>(from, a), load<WIDTH>(from + half, b);
  if (!is_v) turn<WIDTH>(a, b, args.cos + (args.before + i) * half + l, args.sin + (args.before + i) * half + l);
  Seen* const seen = reinterpret_cast<Seen*>(is_q ? args.turned_q : is_v ? args.seen_v : args.seen_k) + place + l;
  store<WIDTH>(seen, a), store<WIDTH>(seen + half, b);
  if (is_q) return;
  Kept* const kept = reinterpret_cast<Kept*>(is_v ? args.values : args.keys) + (args.row + args.before) * kv * 2 * half + place + l;
  store<WIDTH>(kept, a), store<WIDTH>(kept + half, b);
}

template <class Given, class Kept, class Seen>
void run(const KeepRowsArgs& args) {
  const bool wide = args.half % kVector == 0;
  const int64_t threads = (args.heads + 2 * args.kv_heads) * args.half / (wide ? kVector : 1);
  const dim3 grid(static_cast<unsigned>((threads + kThreads - 1) / kThreads), static_cast<unsigned>(args.t));
  const auto kernel = wide ? keep_rows_kernel<Given, Kept, Seen, kVector> : keep_rows_kernel<Given, Kept, Seen, 1>;
  check(launch(kernel, grid, kThreads, 0, stream(), card_overlaps(), args));
}

template <class Given, class Kept>
void run(const KeepRowsArgs& args) {
  args.seen_bf16 ? run<Given, Kept, uint16_t>(args) : run<Given, Kept, float>(args);
}
template <class Given>
void run(const KeepRowsArgs& args) {
  args.kept_bf16 ? run<Given, uint16_t>(args) : run<Given, float>(args);
}

}  // namespace

void keep_rows(const KeepRowsArgs& args) {
  if (args.t == 0 || args.half == 0) return;
  if (args.t > 65535) fail("%lld rows are more than a launch has room for", (long long)args.t);
  args.given_bf16 ? run<uint16_t>(args) : run<float>(args);
}

}  // namespace ops
