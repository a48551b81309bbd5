#include "attend_cache.h"

#include <cmath>
#include <vector>

#include "../../core/bf16.h"
#include "../../core/error.h"
#include "../../core/parallel.h"
#include "../rope/turn.h"
#include "attend_cache_kernel.h"

namespace ops {

namespace {

// A row's keys are cut into pieces of at least kKeys, which threads do side by side, and those into parts of neighbouring heads, so that
// of each key at least kStretch elements stand together. The cut depends on the row alone, not on threads or other rows.
constexpr int64_t kKeys = 64, kMostPieces = 32, kStretch = 1024;
constexpr int64_t kRoom = 1 << 17;  // numbers that pieces leave for each other: rows beyond that come after

}  // namespace

void attend_cache(const AttendCacheArgs& args) {
  const int64_t e = args.e, half = e / 2, stride = args.kv_heads * e, element = args.bf16 ? 2 : 4, each = args.heads / args.kv_heads;
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

  auto* piece_of = attend_piece<16>;
#if defined(__x86_64__)
  if (context().level == Level::avx2) piece_of = attend_piece_avx2;
  if (context().level == Level::avx512) piece_of = attend_piece_avx512;
#endif
  struct Reach {
    int64_t begin, end, pieces;
  };
  std::vector<Reach> reach(args.t);
  int64_t most_pieces = 1;
  for (int64_t i = 0; i < args.t; ++i) {
    const int64_t end = args.positions[i] + 1, begin = args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0;
    reach[i] = {begin, end, std::min((end - begin + kKeys - 1) / kKeys, kMostPieces)};
    most_pieces = std::max(most_pieces, reach[i].pieces);
  }
  const int64_t of_part = std::clamp<int64_t>((kStretch + e - 1) / e, 1, args.kv_heads), parts = (args.kv_heads + of_part - 1) / of_part;
  const int64_t scalars = args.heads, vectors = args.heads * e, at_once = std::max<int64_t>(1, kRoom / (most_pieces * vectors));
  std::vector<float> made(std::min(args.t, at_once) * most_pieces * (2 * scalars + vectors));
  for (int64_t first = 0; first < args.t; first += at_once) {
    const int64_t count = std::min(at_once, args.t - first);
    const auto of = [&](int64_t i, int64_t piece) { return made.data() + ((i - first) * most_pieces + piece) * (2 * scalars + vectors); };
    parallel_for(count * most_pieces * parts, 1, [&](int64_t from, int64_t to) {
      for (int64_t at = from; at < to; ++at) {
        const int64_t i = first + at / (most_pieces * parts), piece = at / parts % most_pieces, kv = at % parts * of_part, head = kv * each;
        const auto [begin, end, pieces] = reach[i];
        if (piece >= pieces) continue;
        const int64_t key = begin + (end - begin) * piece / pieces, next = begin + (end - begin) * (piece + 1) / pieces;
        float* const left = of(i, piece);
        piece_of({.q = turned.data() + i * vectors + head * e,
                  .keys = row(args.keys, i, key) + kv * e * element,
                  .values = row(args.values, i, key) + kv * e * element,
                  .count = next - key,
                  .stride = stride,
                  .kv_heads = std::min(of_part, args.kv_heads - kv),
                  .each = each,
                  .e = e,
                  .scale = args.scale,
                  .bf16 = args.bf16,
                  .most = left + head,
                  .weight = left + scalars + head,
                  .sums = left + 2 * scalars + head * e});
      }
    });
    parallel_for(count * args.heads, 1, [&](int64_t from, int64_t to) {
      for (int64_t at = from; at < to; ++at) {
        const int64_t i = first + at / args.heads, head = at % args.heads, pieces = reach[i].pieces;
        float most = of(i, 0)[head];
        for (int64_t piece = 1; piece < pieces; ++piece) most = std::max(most, of(i, piece)[head]);
        double all = 0;
        float* const out = args.out + i * vectors + head * e;
        std::fill_n(out, e, 0.0f);
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const float* const one = of(i, piece);
          const float factor = std::exp(one[head] - most), *sums = one + 2 * scalars + head * e;
          all += static_cast<double>(factor) * one[scalars + head];
          for (int64_t l = 0; l < e; ++l) out[l] += factor * sums[l];
        }
        const float share = static_cast<float>(1 / all);
        for (int64_t l = 0; l < e; ++l) out[l] *= share;
      }
    });
  }
}

}  // namespace ops
