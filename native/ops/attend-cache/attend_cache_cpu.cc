#include "attend_cache.h"

#include <vector>

#include "../../core/bf16.h"
#include "../../core/error.h"
#include "../../core/exp.h"
#include "../../core/parallel.h"
#include "../rope/turn.h"

namespace ops {

namespace {

// In 16 partial sums, which any instruction set keeps apart: the same bits on all.
float dot(const float* x, const float* y, int64_t n) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] += x[i + l] * y[i + l];
  for (int l = 0; i < n; ++i, ++l) lanes[l] += x[i] * y[i];
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

}  // namespace

void attend_cache(const AttendCacheArgs& args) {
  const int64_t e = args.e, half = e / 2, stride = args.kv_heads * e, element = args.bf16 ? 2 : 4;
  for (int64_t i = 0; i < args.t; ++i) {
    const int slot = args.slots[i], position = args.positions[i];
    if (slot < 0 || slot >= args.count) fail("row %lld is in slot %d, and the cache has %lld", (long long)i, slot, (long long)args.count);
    if (position < 0 || position >= args.capacity)
      fail("row %lld is at position %d, and a slot has %lld", (long long)i, position, (long long)args.capacity);
  }
  const auto row = [&](uint8_t* cache, int64_t i, int64_t j) { return cache + (args.slots[i] * args.capacity + j) * stride * element; };
  std::vector<float> turned(args.t * args.heads * e);
  parallel_for(args.t, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const float* cos = args.cos + args.positions[i] * half;
      const float* sin = args.sin + args.positions[i] * half;
      turn(args.q + i * args.heads * e, turned.data() + i * args.heads * e, cos, sin, args.heads, half);
      turn(args.k + i * stride, Narrowing(row(args.keys, i, args.positions[i]), stride, args.bf16), cos, sin, args.kv_heads, half);
      std::copy_n(args.v + i * stride, stride, static_cast<float*>(Narrowing(row(args.values, i, args.positions[i]), stride, args.bf16)));
    }
  });
  parallel_for(args.t * args.heads, 1, [&](int64_t from, int64_t to) {
    std::vector<float> weights;
    for (int64_t at = from; at < to; ++at) {
      const int64_t i = at / args.heads, head = at % args.heads / (args.heads / args.kv_heads) * e * element;
      const int64_t end = args.positions[i] + 1;
      const int64_t begin = args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0;
      const float* q = turned.data() + at * e;
      weights.resize(end - begin);
      float most = -3.4e38f;
      for (int64_t j = begin; j < end; ++j)
        most = std::max(most, weights[j - begin] = args.scale * dot(q, Widened(row(args.keys, i, j) + head, e, args.bf16), e));
      exp_all(weights.data(), 1, -most, weights.data(), end - begin);
      double sum = 0;
      for (const float weight : weights) sum += weight;
      float* out = args.out + at * e;
      std::fill(out, out + e, 0.f);
      for (int64_t j = begin; j < end; ++j) {
        const float weight = weights[j - begin];
        const Widened v(row(args.values, i, j) + head, e, args.bf16);
        for (int64_t l = 0; l < e; ++l) out[l] += weight * v[l];
      }
      const float scale = static_cast<float>(1 / sum);
      for (int64_t l = 0; l < e; ++l) out[l] *= scale;
    }
  });
}

}  // namespace ops
