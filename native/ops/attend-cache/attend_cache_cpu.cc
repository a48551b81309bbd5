#include "attend_cache.h"

#include <vector>

#include "../../core/exp.h"
#include "../../core/parallel.h"

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
  const int64_t e = args.e, stride = args.kv_heads * e;
  parallel_for(args.t * args.heads, 1, [&](int64_t from, int64_t to) {
    std::vector<float> weights;
    for (int64_t at = from; at < to; ++at) {
      const int64_t end = args.start + at / args.heads + 1;
      const int64_t begin = args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0;
      const int64_t head = at % args.heads / (args.heads / args.kv_heads) * e;
      const float* q = args.q + at * e;
      weights.resize(end - begin);
      float most = -3.4e38f;
      for (int64_t j = begin; j < end; ++j) most = std::max(most, weights[j - begin] = args.scale * dot(q, args.k + j * stride + head, e));
      exp_all(weights.data(), 1, -most, weights.data(), end - begin);
      double sum = 0;
      for (const float weight : weights) sum += weight;
      float* out = args.out + at * e;
      std::fill(out, out + e, 0.f);
      for (int64_t j = begin; j < end; ++j) {
        const float weight = weights[j - begin];
        const float* v = args.v + j * stride + head;
        for (int64_t l = 0; l < e; ++l) out[l] += weight * v[l];
      }
      const float scale = static_cast<float>(1 / sum);
      for (int64_t l = 0; l < e; ++l) out[l] *= scale;
    }
  });
}

}  // namespace ops
