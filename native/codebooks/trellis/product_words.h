// defines: products of weights that are words of 16 bits, one after the other for the lanes of any instruction set (Lanes), and hyb's that way.
//
// Lanes is a vector V of a chunk's runs, `parts` of which are a chunk, two runs in each 32 bits:
//   Window<K, TC>(words, part)   the words of a chunk's part and the first of the next runs; state<at>(), or state(at) where Lanes is not
//                                `unrolled`, is the state that begins there, in 16 bits a run
//   byte_sums<code>(s)           for mul1 and 1mad, the sums of four bytes that states are worth
//   low_words(s), high_words(s)  half the states in 32 bits each; narrow(a, b) is the way back, of numbers that 16 bits hold
//   affine<c, d>(s)              s·c + d of 32 bits
//   f16_sum(x)                   the sum of the two f16 numbers that x has by 3INST, in units of 2^-13
//   pairs(table, s, even, odd)   hyb's words of 32 bits, of even runs and of odd ones
//   high_bytes(v)                ⌊(v + 128)/256⌋ of words
//   dot(sum, v, x)               sum + Σ of the products of both words of v with x's
//   chains                       as many sums as dot needs that do not wait for each other; where there are several, also plus(a, b)
//   carry(low, carried)          what is above 16 bits goes from one to the other
#pragma once
#include <algorithm>
#include <type_traits>

#include "product_code.h"
#include "product_rows.h"
#include "product_unroll.h"

namespace ops::product {
namespace {

// Words that are read some chunks later, of the next block too: memory is further away than processors look by themselves.
template <int K>
[[gnu::always_inline]] inline void fetch(const uint16_t* words) {
  constexpr int ahead = 4096, line = 64;  // bytes
  for (int q = 0; q < K; ++q) __builtin_prefetch(reinterpret_cast<const char*>(words) + ahead + q * line);
}

// Computed codes: a weight's word times two digits of x of 12 bits, or one of 8; of both runs at once.
template <class Lanes, ProductCode code, int digits_>
struct Words {
  using V = typename Lanes::V;
  static constexpr bool byte_sums = code == ProductCode::mul1 || code == ProductCode::mad1;
  static constexpr int states = 16, digits = digits_, levels = digits, x_bytes = 4 * digits;
  // Chunks until 32 bits might overflow: (1020 or 32752) · (2048 or 127) · 32 a chunk, on what a carry leaves.
  static constexpr int64_t until = byte_sums ? 32 : digits == 2 ? 1 : 16;
  static constexpr int64_t factors[2] = {digits == 2 ? 4096 : 1, 1};
  Lanes lanes;
  explicit Words(const Job&) {}
  [[gnu::always_inline]] inline V value(V s) const {
    if constexpr (byte_sums) {
      return Lanes::template byte_sums<code>(s);
    } else {
      constexpr Affine hash = hash_of(code);
      return Lanes::narrow(lanes.f16_sum(Lanes::template affine<hash.factor, hash.addend>(Lanes::low_words(s))),
                          lanes.f16_sum(Lanes::template affine<hash.factor, hash.addend>(Lanes::high_words(s))));
    }
  }
  template <int T>
  [[gnu::always_inline]] inline void add(V s, const uint8_t* x, int64_t stride, V (&sum)[T][levels]) const {
    const V v = value(s);
    for (int b = 0; b < T; ++b) {
      for (int d = 0; d < digits; ++d) sum[b][d] = Lanes::dot(sum[b][d], v, x + b * stride + 4 * d);
    }
  }
};

// HYB from both signs of 512 pairs of words: v and its high part h = ⌊(v + 128)/256⌋ times three digits of 8 bits: v·(x0·2^8 + x1) + h·x2, in
// two levels; or v times one digit.
template <class Lanes, int digits_>
struct Pairs {
  using V = typename Lanes::V;
  static constexpr int states = 8, digits = digits_, levels = digits == 3 ? 2 : 1, x_bytes = 8 * digits;
  static constexpr int64_t until = 15, factors[2] = {digits == 3 ? 256 : 1, 1};
  const int32_t* table;
  explicit Pairs(const Job& job) : table(reinterpret_cast<const int32_t*>(job.table)) {}
  static void arrange(const int16_t* whole, uint8_t* table) {
    auto* const pairs = reinterpret_cast<int16_t*>(table);
    for (int i = 0; i < 1024; ++i) {
      pairs[i] = whole[i];
      pairs[1024 + i] = static_cast<int16_t>(i % 2 ? whole[i] : -whole[i]);
    }
  }
  template <int T>
  [[gnu::always_inline]] inline void add(V s, const uint8_t* x, int64_t stride, V (&sum)[T][levels]) const {
    V pair[2] = {};
    Lanes::pairs(table, s, pair[0], pair[1]);
    for (int odd = 0; odd < 2; ++odd) {
      const V v = pair[odd], h = digits == 3 ? Lanes::high_bytes(v) : v;
      for (int b = 0; b < T; ++b) {
        const uint8_t* const at = x + b * stride + odd * 4 * digits;
        sum[b][0] = Lanes::dot(sum[b][0], v, at);
        if constexpr (digits == 3) sum[b][1] = Lanes::dot(Lanes::dot(sum[b][1], v, at + 4), h, at + 8);
      }
    }
  }
};

// Adds to the rows that runs of a part are of; apart, as it is for all sums and done once.
template <class Lanes, bool TC>
[[gnu::noinline]] void add_up(typename Lanes::V low, typename Lanes::V carried, int part, int set, int64_t factor, int64_t* sums) {
  constexpr int dwords = 16 / Lanes::parts;
  alignas(64) int32_t lows[dwords], highs[dwords];
  Lanes::store(lows, low), Lanes::store(highs, carried);
  for (int i = 0; i < dwords; ++i) {
    const int run = part * dwords + i;
    sums[TC ? run / 8 * 16 + set * 8 + run % 8 : run] += (int64_t{highs[i]} * 65536 + lows[i]) * factor;
  }
}

template <class Lanes, class Code, int K, bool TC, int T>
void word_sums(const Job& job, int64_t (*sums)[32]) {
  using V = typename Lanes::V;
  constexpr int sets = TC ? 2 : 1, bits = 16 / Code::states * K;
  constexpr int64_t until = Code::until * sets, most = until << 14;
  constexpr int turns = std::max(1, Lanes::chains / (sets * T * Code::levels));  // sums of the same that take turns; 32 bits hold all of them together
  const Code code(job);
  for (int part = 0; part < Lanes::parts; ++part) {
    for (int64_t first = 0; first < job.chunks; first += most) {
      V sum[turns][sets][T][Code::levels] = {}, carried[sets][T][Code::levels] = {};
      for (int64_t from = first; from < std::min(job.chunks, first + most); from += until) {
        for (int64_t chunk = from; chunk < std::min(job.chunks, from + until); ++chunk) {
          if (part == 0) fetch<K>(job.words + chunk * K * kLanes);
          const typename Lanes::template Window<K, TC> window(job.words + chunk * K * kLanes, part);
          const uint8_t* const x = job.x + chunk * (Code::states / sets * Code::x_bytes);
          const auto add = [&](int j, V s) __attribute__((always_inline)) {
            // In tensor-core order weights p with p & 2 are of another row, and those of both read the same x.
            const int p = j * (16 / Code::states), set = TC ? p >> 1 & 1 : 0;
            const int at = !TC ? j : Code::states == 16 ? p / 4 * 2 + p % 2 : p / 4;
            code.template add<T>(s, x + at * Code::x_bytes, job.stride, sum[at % turns][set]);
          };
          if constexpr (Lanes::unrolled) {
            unroll<Code::states>([&](auto j) __attribute__((always_inline)) { add(j, window.template state<j * bits>()); });
          } else {
            for (int j = 0; j < Code::states; ++j) add(j, window.state(j * bits));
          }
        }
        for (int set = 0; set < sets; ++set) {
          for (int b = 0; b < T; ++b) {
            for (int d = 0; d < Code::levels; ++d) {
              V& all = sum[0][set][b][d];
              if constexpr (turns > 1) {
                for (int turn = 1; turn < turns; ++turn) all = Lanes::plus(all, sum[turn][set][b][d]), sum[turn][set][b][d] = V{};
              }
              Lanes::carry(all, carried[set][b][d]);
            }
          }
        }
      }
      for (int set = 0; set < sets; ++set) {
        for (int b = 0; b < T; ++b) {
          for (int d = 0; d < Code::levels; ++d) add_up<Lanes, TC>(sum[0][set][b][d], carried[set][b][d], part, set, Code::factors[d], sums[b]);
        }
      }
    }
  }
}

// f(job, sums, T), T a constant, for one vector or as many at a time as there is room for, the last of which may not be there.
template <int most, class F>
void in_turns(const Job& job, int vectors, int64_t (*sums)[32], const F& f) {
  Job rest = job;
  for (int b = 0, count; b < vectors; b += count, rest.x += count * job.stride) {
    const int left = vectors - b;
    if (left == 1) count = 1, f(rest, sums + b, std::integral_constant<int, 1>{});
    else if (left <= 4 || most == 4) count = 4, f(rest, sums + b, std::integral_constant<int, 4>{});
    else count = most, f(rest, sums + b, std::integral_constant<int, most>{});
  }
}

template <class Lanes, class Code, int K, bool TC>
void word_rows(const Job& job, int vectors, int64_t (*sums)[32]) {
  constexpr int most = 8 * Code::levels * (TC ? 2 : 1) <= Lanes::most_sums ? 8 : 4;
  in_turns<most>(job, vectors, sums, [](const Job& job, int64_t (*sums)[32], auto T) { word_sums<Lanes, Code, K, TC, T>(job, sums); });
}

// A word for each digit: of both runs' weights, or of the pair in the even runs, then of that in the odd ones.
template <class Lanes, class Code>
Kernel words_kernel(int K, Order order, void (*arrange)(const int16_t*, uint8_t*) = nullptr) {
  constexpr decltype(&word_rows<Lanes, Code, 1, false>) list[4][2] = {{word_rows<Lanes, Code, 1, false>, word_rows<Lanes, Code, 1, true>},
                                                                      {word_rows<Lanes, Code, 2, false>, word_rows<Lanes, Code, 2, true>},
                                                                      {word_rows<Lanes, Code, 3, false>, word_rows<Lanes, Code, 3, true>},
                                                                      {word_rows<Lanes, Code, 4, false>, word_rows<Lanes, Code, 4, true>}};
  constexpr Digits digits[3] = {Digits::one, Digits::halves, Digits::bytes};
  Kernel kernel{list[K - 1][order.tensor_core], digits[Code::digits - 1], {}, 2, 0, 0, arrange};
  for (int p = 0; p < 16; p += 16 / Code::states) {
    if (order.tensor_core && p & 2) continue;
    for (int lane = 0; lane < 16 / Code::states; ++lane) {
      for (int digit = 0; digit < Code::digits; ++digit) {
        for (int i = 0; i < 2; ++i) kernel.slots.add({Code::states == 8 ? order.column(p + i, lane) : order.column(p, i), digit});
      }
    }
  }
  return kernel;
}

template <class Lanes, ProductCode code>
Kernel computed_kernel(int K, Order order, bool int8) {
  return int8 ? words_kernel<Lanes, Words<Lanes, code, 1>>(K, order) : words_kernel<Lanes, Words<Lanes, code, 2>>(K, order);
}
template <class Lanes>
Kernel pairs_kernel(int K, Order order, bool int8) {
  if (int8) return words_kernel<Lanes, Pairs<Lanes, 1>>(K, order, Pairs<Lanes, 1>::arrange);
  return words_kernel<Lanes, Pairs<Lanes, 3>>(K, order, Pairs<Lanes, 3>::arrange);
}
template <class Lanes>
Kernel kernel_of(ProductCode code, int K, Order order, bool int8) {
  switch (code) {
    case ProductCode::hyb: return pairs_kernel<Lanes>(K, order, int8);
    case ProductCode::inst3: return computed_kernel<Lanes, ProductCode::inst3>(K, order, int8);
    case ProductCode::mcg: return computed_kernel<Lanes, ProductCode::mcg>(K, order, int8);
    case ProductCode::mul1: return computed_kernel<Lanes, ProductCode::mul1>(K, order, int8);
    case ProductCode::mad1: return computed_kernel<Lanes, ProductCode::mad1>(K, order, int8);
  }
  return {};
}

}  // namespace
}  // namespace ops::product
