// Blocks of rows among the threads, run by run of 16 weights; a state's value comes from a table.
#include "decode.h"

#include <bit>
#include <vector>

#include "../../core/half.h"
#include "../../core/parallel.h"
#include "product_code.h"
#include "product_rows.h"

namespace ops {

namespace {

using namespace product;

// Values of a computed code's states, made once.
template <ProductCode code>
const float* values_of() {
  static const std::vector<float> values = [] {
    std::vector<float> made(1 << 16);
    for (uint32_t s = 0; s < made.size(); ++s) made[s] = value(code, s, nullptr).first;
    return made;
  }();
  return values.data();
}

void put(float v, float& into) { into = v; }
void put(float v, uint16_t& into) { into = f32_to_f16(v); }

// Chunks of a block of rows. pairs: table is hyb's 512, else a value for every state.
template <int K, bool pairs, class T>
void decode_block(const TrellisDecodeArgs& a, const float* table, Order order, int64_t block) {
  const int64_t chunks = (a.columns + order.columns() - 1) / order.columns(), top = block * order.rows() - a.first;
  T* const values = reinterpret_cast<T*>(a.values);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const uint16_t* const words = reinterpret_cast<const uint16_t*>(a.arranged) + (block * chunks + chunk) * K * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t column = chunk * order.columns() + order.column(0, lane % 2);
      const int row = order.tensor_core ? lane / 16 * 16 + lane % 16 / 2 : lane / 2;
      if (column >= a.columns || top + row >= a.count) continue;
      // The bits of the run, and the first of the one after it in the tile.
      const int next = !order.tensor_core ? (lane + 2) % kLanes : lane % 2 ? lane - 1 : lane / 16 * 16 + (lane + 3) % 16;
      uint32_t bits[K + 1];
      for (int q = 0; q < K; ++q) bits[q] = words[q * kLanes + lane];
      bits[K] = words[next];
      T* const to = values + (top + row) * a.columns + chunk * order.columns();
#pragma GCC unroll 16
      for (int p = 0; p < 16; p += 1 + pairs) {
        const uint32_t s = (bits[p * K / 16] << 16 | bits[p * K / 16 + 1]) >> (16 - p * K % 16) & 0xffff;
        T* const at = to + (order.tensor_core && p & 2 ? 8 * a.columns : 0) + order.column(p, lane % 2);
        if constexpr (pairs) {
          const uint32_t u = s * (s + 1);
          const float* const pair = table + 2 * (u >> 6 & 511);
          // No branch: a sign that nothing predicts would cost more than all the rest.
          put(std::bit_cast<float>(std::bit_cast<uint32_t>(pair[0]) ^ (u & 0x8000) << 16), at[0]), put(pair[1], at[1]);
        } else {
          put(table[s], *at);
        }
      }
    }
  }
}

template <class T>
auto block_of(int64_t K, bool pairs) {
  switch (K) {
    case 1: return pairs ? decode_block<1, true, T> : decode_block<1, false, T>;
    case 2: return pairs ? decode_block<2, true, T> : decode_block<2, false, T>;
    case 3: return pairs ? decode_block<3, true, T> : decode_block<3, false, T>;
    default: return pairs ? decode_block<4, true, T> : decode_block<4, false, T>;
  }
}

}  // namespace

void trellis_decode(const TrellisDecodeArgs& a) {
  float pairs[1024];
  const float* table = pairs;
  const auto code = static_cast<ProductCode>(a.code);
  switch (code) {
    case ProductCode::hyb:
      for (int i = 0; i < 1024; ++i) pairs[i] = f16_to_f32(a.entries[i]);
      break;
    case ProductCode::mad1: table = values_of<ProductCode::mad1>(); break;
    case ProductCode::inst3: table = values_of<ProductCode::inst3>(); break;
    case ProductCode::mul1: table = values_of<ProductCode::mul1>(); break;
    case ProductCode::mcg: table = values_of<ProductCode::mcg>(); break;
  }
  const Order order{a.tensor_core};
  const int64_t from = a.first / order.rows(), to = (a.first + a.count + order.rows() - 1) / order.rows();
  const auto decode = a.f16 ? block_of<uint16_t>(a.K, code == ProductCode::hyb) : block_of<float>(a.K, code == ProductCode::hyb);
  parallel_for(to - from, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) decode(a, table, order, from + i);
  });
}

}  // namespace ops
