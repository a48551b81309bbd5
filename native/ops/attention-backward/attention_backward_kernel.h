// defines: the way back through attention for one head of keys of one sequence, in GCC's vector extensions. Each
// translation unit compiles it for its instruction set.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "../../core/exp_kernel.h"
#include "attention_backward.h"

namespace ops {

// The op's inputs as f32.
struct AttentionBackwardInputs {
  const float *q, *k, *v, *dy;
};

void attention_backward_head_avx2(const AttentionBackwardArgs& args, const AttentionBackwardInputs& in, int64_t sequence, int64_t kv);
void attention_backward_head_avx512(const AttentionBackwardArgs& args, const AttentionBackwardInputs& in, int64_t sequence, int64_t kv);

namespace {

template <int BYTES>
struct AttentionBackward {
  using L = Lanes<BYTES>;
  using Float = typename L::Float;
  static constexpr int W = L::W, R = 4;          // R: rows that share a load
  static constexpr int64_t kBackQueries = 32;  // of a block: its probabilities are held at once

  const AttentionBackwardArgs& args;
  const AttentionBackwardInputs& in;
  const int64_t sequence, kv;
  const int64_t e = args.e, wide = (e + W - 1) / W * W, room = (args.length + W - 1) / W * W;
  const int64_t q_stride = args.heads * e, kv_stride = args.kv_heads * e;
  const int64_t kv_at = sequence * args.length * kv_stride + kv * e;
  float *keys = nullptr, *dk = nullptr, *dv = nullptr;         // [room, wide]
  float *keys_across = nullptr, *values_across = nullptr;      // [room/W, e, W]: transposed
  float *queries = nullptr, *slopes = nullptr;                 // [kBackQueries, wide] of q and dy
  float *shares = nullptr, *scores = nullptr;                  // [kBackQueries, room]: P; dy·v, then S

  void run() {
    thread_local std::vector<float> scratch;
    scratch.assign(3 * room * wide + 2 * room * e + 2 * kBackQueries * (wide + room), 0.0f);
    float* next = scratch.data();
    const auto take = [&](int64_t count) { return std::exchange(next, next + count); };
    keys = take(room * wide), dk = take(room * wide), dv = take(room * wide);
    keys_across = take(room * e), values_across = take(room * e);
    queries = take(kBackQueries * wide), slopes = take(kBackQueries * wide);
    shares = take(kBackQueries * room), scores = take(kBackQueries * room);

    for (int64_t j = 0; j < args.length; ++j) {
      const float *key = in.k + kv_at + j * kv_stride, *value = in.v + kv_at + j * kv_stride;
      std::memcpy(keys + j * wide, key, e * sizeof(float));
      for (int64_t l = 0; l < e; ++l) {
        keys_across[(j / W * e + l) * W + j % W] = key[l];
        values_across[(j / W * e + l) * W + j % W] = value[l];
      }
    }
    const int64_t group = args.heads / args.kv_heads;
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      for (int64_t first = 0; first < args.length; first += kBackQueries) block(head, first);
    }
    for (int64_t j = 0; j < args.length; ++j) {
      std::memcpy(args.dk + kv_at + j * kv_stride, dk + j * wide, e * sizeof(float));
      std::memcpy(args.dv + kv_at + j * kv_stride, dv + j * wide, e * sizeof(float));
    }
  }

  // Queries [first, first + kBackQueries) of a head, cut off at the end of the sequence.
  void block(int64_t head, int64_t first) {
    const int64_t last = std::min(first + kBackQueries, args.length), count = last - first;
    const int64_t from = args.window > 0 ? std::max<int64_t>(0, first - args.window + 1) / W * W : 0;
    const int64_t to = (last + W - 1) / W * W;
    const int64_t at = (sequence * args.length + first) * q_stride + head * e;
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(queries + i * wide, in.q + at + i * q_stride, e * sizeof(float));
      std::memcpy(slopes + i * wide, in.dy + at + i * q_stride, e * sizeof(float));
    }
    for (int64_t i = 0; i < count; i += R) products(i, from, to);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = args.window > 0 ? std::max<int64_t>(from, first + i - args.window + 1) : 0;
      row(shares + i * room, scores + i * room, from, begin, first + i + 1, to);
    }
    for (int64_t i = 0; i < count; i += R) queries_back(i, count, from, to, args.dq + at);
    for (int64_t j = from; j < to; j += R) keys_back(j, count);
  }

  // shares = scale·q·k, scores = dy·v for R queries and the keys [from, to). Rows beyond the block are of no use, and finite or not.
  void products(int64_t i, int64_t from, int64_t to) {
    for (int64_t j = from; j < to; j += W) {
      const float *key = keys_across + j * e, *value = values_across + j * e;
      Float of_key[R] = {}, of_value[R] = {};
      for (int64_t l = 0; l < e; ++l) {
        const Float k = L::load(key + l * W), v = L::load(value + l * W);
        for (int r = 0; r < R; ++r) {
          of_key[r] += queries[(i + r) * wide + l] * k;
          of_value[r] += slopes[(i + r) * wide + l] * v;
        }
      }
      for (int r = 0; r < R; ++r) {
        L::store(shares + (i + r) * room + j, of_key[r] * args.scale);
        L::store(scores + (i + r) * room + j, of_value[r]);
      }
    }
  }

  // Of one query: P and S, zero beyond the keys [begin, end) in reach.
  void row(float* p, float* s, int64_t from, int64_t begin, int64_t end, int64_t to) {
    L::exp_all(p + begin, 1.0f, -L::max_of(p + begin, end - begin), p + begin, end - begin);
    const float share = 1.0f / L::sum_of(p + begin, end - begin);
    for (float* x : {p, s}) {
      std::memset(x + from, 0, (begin - from) * sizeof(float));
      std::memset(x + end, 0, (to - end) * sizeof(float));
    }
    Float dots = {};
    for (int64_t j = from; j < to; j += W) {
      const Float shared = L::load(p + j) * share;
      L::store(p + j, shared);
      dots += shared * L::load(s + j);
    }
    float parts[W], mean = 0;
    L::store(parts, dots);
    for (const float part : parts) mean += part;
    for (int64_t j = from; j < to; j += W) L::store(s + j, L::load(p + j) * (L::load(s + j) - mean) * args.scale);
  }

  void queries_back(int64_t i, int64_t count, int64_t from, int64_t to, float* dq) {
    for (int64_t l = 0; l < wide; l += W) {
      Float sum[R] = {};
      for (int64_t j = from; j < to; ++j) {
        const Float key = L::load(keys + j * wide + l);
        for (int r = 0; r < R; ++r) sum[r] += scores[(i + r) * room + j] * key;
      }
      for (int r = 0; r < R && i + r < count; ++r) std::memcpy(dq + (i + r) * q_stride + l, &sum[r], std::min<int64_t>(W, e - l) * sizeof(float));
    }
  }

  void keys_back(int64_t j, int64_t count) {
    for (int64_t l = 0; l < wide; l += W) {
      Float of_key[R], of_value[R];
      for (int r = 0; r < R; ++r) of_key[r] = L::load(dk + (j + r) * wide + l), of_value[r] = L::load(dv + (j + r) * wide + l);
      for (int64_t i = 0; i < count; ++i) {
        const Float query = L::load(queries + i * wide + l), slope = L::load(slopes + i * wide + l);
        for (int r = 0; r < R; ++r) {
          of_key[r] += scores[i * room + j + r] * query;
          of_value[r] += shares[i * room + j + r] * slope;
        }
      }
      for (int r = 0; r < R; ++r) L::store(dk + (j + r) * wide + l, of_key[r]), L::store(dv + (j + r) * wide + l, of_value[r]);
    }
  }
};

template <int BYTES>
void attention_backward_head(const AttentionBackwardArgs& args, const AttentionBackwardInputs& in, int64_t sequence, int64_t kv) {
  AttentionBackward<BYTES>{args, in, sequence, kv}.run();
}

}  // namespace
}  // namespace ops
