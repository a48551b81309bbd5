// A packed matrix times a few vectors on a GPU: y[b, :] = Ŵ · x[b, :], from the states of a trellis code as `arrange` leaves them.
//
//   packed  u32 [m/32][n/64][2 rows of tiles][K words][32 lanes] in vectors of words: a chunk, 32 rows × 64 columns, is two rows of four tiles.
//           Lane 4g + c has the g-th eighth of the bits of tile c of a row: 32 weights, two rows of the tile. The states that begin in its
//           last bits need bits of the next eighth.
//   x       the parts of the vectors, as `prepare` leaves them: B operands. y f32 [t, m].
//
// A state is the A operand of a matrix instruction, vectors are columns of B. A vector takes several columns, each a part of its digits,
// which cost nothing: the instruction has eight. f16 parts hold 11 bits each, bytes 8. Which columns of the matrix stand at an
// instruction's places along k is free as long as x stands there too: lane c of four has 16 neighbouring ones.
#pragma once
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../../core/overlap.cuh"
#include "product_states.cuh"

namespace ops::product {

struct Args {
  const uint32_t* packed;
  const uint32_t* table;     // 512 pairs of f16, or null
  const unsigned char* x;    // [t][parts][columns up to a multiple of 64]
  const float* units;        // [t][1 + slots]: what a unit of the last digit is worth, and Σx in units (bytes), in pieces
  float* y;
  int m, n, t, slots;        // slots: at most 32
  // `launch` says: a strip's chunks, and 2^40 / chunks; strips of a block, and how many blocks have one more; of a block without and with one more,
  // chunks of a warp, and how many warps have one more.
  int chunks, each, more, few[2], extra[2];
  uint64_t inverse;
  uint32_t never;            // 0, not known to the assembler
  uint32_t factor, addend;   // of computed codes; hyb: 2
  uint32_t mask;             // of 3inst and mcg
  uint32_t powers[8];        // of two, not known to the assembler
  float gain, offset;        // bytes: a value is (sum of bytes)·gain + offset
};

// ── codes: what a state is to the matrix instruction ──────────────────────────────────────────────────────────────────

// Where the table stands in shared memory: as a constant it is part of the load; as a value it would be an addition a state, a seventh of
// the work. Since compute capability 9.0 a block's own memory begins there, before that at 0: then the table's is a kilobyte further.
constexpr uint32_t kSharedStart = 1024;
template <class Code>
__device__ inline unsigned char* from_start(unsigned char* memory) {
#if __CUDA_ARCH__ < 900
  if constexpr (Code::table_bytes > 0) memory += kSharedStart - static_cast<uint32_t>(__cvta_generic_to_shared(memory));
#endif
  return memory;
}

// HYB, Q = 9: an entry of the table, replicated for 32 lanes, so that no two lanes of a warp ever want the same bank.
// signs: both signs of every entry are in the table, 128 KB in place of 64, and one instruction a state less.
template <bool signs>
struct Hyb {
  static constexpr int V = 2, parts = 2;
  static constexpr bool bytes = false;
  static constexpr int table_bytes = (signs ? 1024 : 512) * 32 * 4;
  uint32_t lane;  // its bytes in a row of the table; or-ed in, so that mask and sum are one instruction
  uint32_t two;   // not known to the assembler, which would double by shifts in the pipe that is busiest
  __device__ explicit Hyb(const Args& args) : two(args.factor) {
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));  // not from threadIdx, whose mask would be part of every lookup
    lane *= 4;
  }
  // Entries on their way to a thread, and from there to its part of the table: eight threads fill a row.
  template <int warps>
  struct Filling {
    static constexpr int step = warps * 4, rounds = (512 + step - 1) / step;
    const uint32_t first = threadIdx.x / 8, to = kSharedStart + threadIdx.x * 16;
    uint32_t entry[rounds] = {};
    __device__ bool there(int i) const { return (i + 1) * step <= 512 || first + i * step < 512; }
    __device__ explicit Filling(const Args& args) {
#pragma unroll
      for (int i = 0; i < rounds; ++i) {
        asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p ld.global.nc.u32 %0, [%1];}"
                     : "+r"(entry[i]) : "l"(args.table + first + i * step), "r"(static_cast<uint32_t>(there(i))));
      }
    }
    static __device__ void put(uint32_t at, uint32_t v) { asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" :: "r"(at), "r"(v) : "memory"); }
    template <int begin, int end = rounds>
    __device__ void store() const {
#pragma unroll
      for (int i = begin; i < end; ++i) {
        if (!there(i)) continue;
        put(to + i * step * 128, entry[i]);
        if constexpr (signs) put(to + (512 + i * step) * 128, entry[i] ^ 0x8000);
      }
    }
  };
  template <int K, int at>
  __device__ uint32_t weight(const Stretch<K>& bits) const { return entry(product::state<K, at, false>(bits)); }
  // s may carry anything above its 16 bits: the hash looks at the low bits of s(s+1) alone.
  __device__ uint32_t entry(uint32_t s) const {
    const uint32_t u = s * s + s;
    const uint32_t at = (u * two & (signs ? 0x1ff80 : 0xff80)) | lane;
    uint32_t value;
    asm volatile("ld.shared.u32 %0, [%1+%2];" : "=r"(value) : "r"(at), "n"(kSharedStart));
    return signs ? value : value ^ (u & 0x8000);
  }
};

struct Computed {
  static constexpr int V = 1;
  static constexpr int table_bytes = 0;
  uint32_t factor, addend, both;  // both: of first·2^16 + second
  const uint32_t* powers;
  __device__ explicit Computed(const Args& args) : factor(args.factor), addend(args.addend), both(args.addend * 0x10001), powers(args.powers) {}
  // At 3 bits no two states share what is shifted; half of the shifts are multiplications, as the pipe that shifts has all byte permutes.
  template <int K, int at>
  __device__ uint32_t state(const Stretch<K>& bits) const {
    if constexpr (K == 3 && at % 32 < 16 && at % 8 != 0) return __byte_perm(bits.word[at / 32] * powers[at % 8], 0, at % 32 < 8 ? 0x4432 : 0x4421);
    else return product::state<K, at, true>(bits);
  }
  // s·factor + addend.
  template <int K, int at>
  __device__ uint32_t hash(const Stretch<K>& bits) const { return state<K, at>(bits) * factor + addend; }
  // The same by one byte permute less and one multiplication more, if the state is the second of two that make a word: word = first·2^16 + second.
  template <int K, int at>
  __device__ uint32_t hash_by_first(const Stretch<K>& bits) const {
    if constexpr (is_second<K, at>) {
      uint32_t h;
      asm("mad.lo.u32 %0, %1, 0xffff0000, %2;" : "=r"(h) : "r"(hash<K, at - 16>(bits)), "r"(word_of<K, at>(bits) * factor + both));
      return h;
    } else {
      return hash<K, at>(bits);
    }
  }
  template <int warps>
  struct Filling {
    __device__ explicit Filling(const Args&) {}
    template <int begin, int end = 0>
    __device__ void store() const {}
  };
};

// mul1, 1mad: the sum of the bytes of s·factor + addend: four places along k of an integer instruction, x the same at all four.
struct Bytes : Computed {
  static constexpr int parts = 3;
  static constexpr bool bytes = true;
  using Computed::Computed;
  template <int K, int at>
  __device__ uint32_t weight(const Stretch<K>& bits) const { return hash<K, at>(bits); }
};

// 3inst, mcg: two f16 numbers whose sum is the value: two places along k.
struct Halves : Computed {
  static constexpr int parts = 2;
  static constexpr bool bytes = false;
  uint32_t mask;  // 0x8fff8fff, not known to the assembler: an instruction takes one constant
  __device__ explicit Halves(const Args& args) : Computed(args), mask(args.mask) {}
  // Its masks and byte permutes have one pipe, which bounds it: multiplications have another. mul1 is bound by neither.
  template <int K, int at>
  __device__ uint32_t weight(const Stretch<K>& bits) const { return (hash_by_first<K, at>(bits) & mask) ^ 0x3b603b60; }
};

// ── instructions ──────────────────────────────────────────────────────────────────────────────────────────────────────

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__host__ __device__ constexpr int padded(int n) { return (n + 63) / 64 * 64; }

// ── the product ───────────────────────────────────────────────────────────────────────────────────────────────────────

constexpr int kRows = 32;    // of a chunk
constexpr int kStrips = 36;  // of a block at most; a matrix that has more takes more blocks than are there at a time

// Columns of B, and how many sums a vector is added up in.
template <class Code>
constexpr int most_vectors(int groups) { return groups * 8 / Code::parts; }
template <class Code>
constexpr int sums_of_vector = Code::bytes ? Code::parts : 1;

// What the end needs, in shared memory behind the table, before the pieces of the sums.
template <class Code>
struct Closing {
  std::conditional_t<Code::bytes, double, float> gain[8];  // of as many vectors as there ever are: y = sum·gain + offset
  double offset[8];
  int low[kStrips], high[kStrips];  // of a block's strip: the first and the last warp that has a piece
};
// Sums of a strip, in words: a constant, so that the end has no addresses to work out.
template <class Code>
constexpr int piece_of(int groups) { return most_vectors<Code>(groups) * sums_of_vector<Code> * (kRows + 1); }
// Integers can be added where they are left, in any order; rounded numbers stay a warp's own until one adds them in theirs. At 3 bits alone: there
// 4096 × 4096 takes 5.5 µs for 5.6 by it, at 2 bits 4.9 for 4.8, at 4 bits 5.8 for 5.7, where the assembler makes a slower loop.
template <class Code, int K>
constexpr bool added_at_once = Code::bytes && K == 3;

// The register of B for a pair of columns (V = 2), or for one column at all the places along k that its values take.
template <class Code, int which>
__device__ inline uint32_t operand(const uint4* x) {
  constexpr int word = Code::V == 2 ? which : Code::bytes ? which / 4 : which / 2;
  const uint4& four = x[word / 4];
  const uint32_t v = word % 4 == 0 ? four.x : word % 4 == 1 ? four.y : word % 4 == 2 ? four.z : four.w;
  if constexpr (Code::V == 2) return v;
  else return __byte_perm(v, 0, Code::bytes ? which % 4 * 0x1111 : which % 2 * 0x2222 + 0x1010);
}

// The tiles of a chunk's row times x: d += Ŵ · x, from the lane's bits of the row.
template <class Code, int K, bool natural, class Sum, int groups, int loads>
__device__ inline void multiply_row(Sum (&d)[groups][4], const Code& code, const Stretch<K>& bits, const uint4 (&x)[groups][loads]) {
  const auto one = [&]<int i>(std::integral_constant<int, i>) {
    // Pairs (V = 2) or columns of 16; of halves, those whose states make a word.
    constexpr int V = Code::V, apart = std::is_same_v<Code, Halves> && 16 % K == 0 && K > 1 ? 16 / K : 1;
    constexpr int alpha = natural ? i / apart * 2 * apart + i % apart : i, beta = natural ? alpha + apart : i + 8 / V;
    const auto at = [&]<int row, int which>(std::integral_constant<int, row>, std::integral_constant<int, which>) {
      return code.template weight<K, weight_at(row, which * V, natural) * K>(bits);
    };
    constexpr std::integral_constant<int, 0> upper;
    constexpr std::integral_constant<int, 1> lower;
    constexpr std::integral_constant<int, alpha> left_pair;
    constexpr std::integral_constant<int, beta> right_pair;
    const uint32_t a[4] = {at(upper, left_pair), at(lower, left_pair), at(upper, right_pair), at(lower, right_pair)};
#pragma unroll
    for (int group = 0; group < groups; ++group) mma(d[group], a, operand<Code, alpha>(x[group]), operand<Code, beta>(x[group]));
  };
  [&]<int... i>(std::integer_sequence<int, i...>) { (one(std::integral_constant<int, i>{}), ...); }(std::make_integer_sequence<int, 8 / Code::V>{});
}

// Blocks take neighbouring strips of 32 rows, warps neighbouring chunks of the block's: few warps end in the middle of a strip.
template <class Code, int K, bool natural, int groups, int warps, int ahead>
__global__ void __launch_bounds__(32 * warps, 1) kernel(const __grid_constant__ Args args) {
  using Sum = std::conditional_t<Code::bytes, int, float>;
  extern __shared__ __align__(16) unsigned char memory[];
  unsigned char* const shared = from_start<Code>(memory);
  // Neither the table nor the states depend on x, so they are on their way before the kernel that makes x has ended: the table first, which must be
  // whole before the first state is looked up, and states when its first entries are there, whose way theirs would make longer. `let_next_begin`
  // once more does nothing, but the assembler moves no loads across it.
  const typename Code::template Filling<warps> filling(args);
  let_next_begin();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, chunks = args.chunks;
  const int block = blockIdx.x, first = block * args.each + min(block, args.more);  // strip
  const bool longer = block < args.more;
  const int own = args.each + longer, few = longer ? args.few[1] : args.few[0], extra = longer ? args.extra[1] : args.extra[0];
  const int begin = warp * few + min(warp, extra), count = few + (warp < extra);
  constexpr int words = 64 * K;  // of a chunk
  constexpr int vector_words = K % 2 == 0 ? 4 : 2;  // that a lane loads at once
  const uint32_t* coming = args.packed + lane * vector_words + static_cast<int64_t>(first * chunks + begin) * words;
  int left = count;  // chunks from the one that comes on
  Chunk<K> queue[ahead] = {};
  // Chunks on their way share one counter, by which the assembler waits for all: so the next is asked for when this one is there, as only `after`
  // shows, which is made of it. Of sums of bytes both are asked for at once, and each again when it is used up: up to 9 % less, but up to 8 % more
  // where a warp has three chunks (4096 × 4096).
  constexpr bool one_by_one = ahead == 2 && !Code::bytes;
  const auto fetch = [&](Chunk<K>& into, uint32_t after) {
    into.load_if(left > static_cast<int>(after & args.never), coming);
    coming += words, --left;
  };
  filling.template store<0, 1>();
  let_next_begin();
#pragma unroll
  for (int i = 0; i < (one_by_one ? 1 : ahead); ++i) fetch(queue[i], 0);
  if constexpr (Code::table_bytes > 0 && one_by_one && K == 4) {  // the next as far as the level-2 cache: 2 to 4 % less, at fewer bits not
    if (left > 0) asm volatile("prefetch.global.L2 [%0];" :: "l"(coming + lane * (words / 32 - vector_words)));
  }
  let_next_begin();
  filling.template store<1>();

  const int begun = static_cast<int>(static_cast<unsigned>(begin) * args.inverse >> 40), column = begin - begun * chunks;
  Closing<Code>& closing = *reinterpret_cast<Closing<Code>*>(shared + Code::table_bytes);
  constexpr int piece = piece_of<Code>(groups);
  constexpr bool at_once = added_at_once<Code, K>;
  const bool whole = !at_once && own == 1 && few > 0;  // the block has one strip, of which every warp has a piece
  Sum* const pieces = reinterpret_cast<Sum*>(&closing + 1);
  if constexpr (at_once) {
    for (int i = threadIdx.x; i < own * piece; i += 32 * warps) pieces[i] = 0;
  } else if (!whole) {
    for (int strip = begun + lane; strip * chunks < begin + count; strip += 32) {
      if (strip * chunks >= begin) closing.low[strip] = warp;
      if ((strip + 1) * chunks <= begin + count) closing.high[strip] = warp;
    }
  }
  // Lane 4i + c reads what stands in column i of B, of its 16 columns of the matrix. Nobody reads what comes of columns beyond the parts there
  // are, so nothing is loaded for them: a load takes as long as its lanes are many.
  constexpr int size = Code::bytes ? 1 : 2, loads = size;
  const int width = chunks * 64 * size;  // bytes of a part
  const unsigned char* mine = args.x + (lane / 4 * static_cast<int64_t>(width) + (column * 64 + lane % 4 * 16) * size);
  const Code code(args);
  __syncthreads();
  wait_for_previous();

  uint4 x[groups][loads] = {};
  const auto vectors = [&] {
#pragma unroll
    for (int group = 0; group < groups; ++group) {
      if (group * 8 + lane / 4 < args.t * Code::parts) {
#pragma unroll
        for (int i = 0; i < loads; ++i) x[group][i] = reinterpret_cast<const uint4*>(mine + static_cast<int64_t>(group) * 8 * width)[i];
      }
    }
    mine += 64 * size;
  };
  // Of sums of bytes x of the next chunk is asked for at the end of a step, else at its beginning: the same instructions, but in the order that the
  // assembler makes of them a chunk takes up to 3 % more or less.
  constexpr bool soon = Code::bytes;
  if constexpr (soon) vectors();
  // A warp for each vector, of the last, which have the fewest chunks, works out what its sums are worth: at the end all others would wait for it.
  const int vector = warps - 1 - warp;
  float unit = 0;
  if (vector < args.t) {
    const float* const units = args.units + vector * (1 + args.slots);
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(unit) : "l"(units));  // asked for here, also where it is used later
    if constexpr (Code::bytes) {
      float digits = lane < args.slots ? units[1 + lane] : 0;
      for (int offset = 16; offset > 0; offset /= 2) digits += __shfl_xor_sync(~0u, digits, offset);
      if (lane == 0) closing.gain[vector] = args.gain * double{unit}, closing.offset[vector] = args.offset * double{digits} * unit;
    }
  }

  Sum d[2][groups][4] = {};
  const auto step = [&](Chunk<K>& in, Chunk<K>& next) {
    if constexpr (!soon) vectors();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const Stretch<K> bits(in.word + r * K);
      if (one_by_one && r == 0) fetch(next, bits.word[K]);
      multiply_row<Code, K, natural>(d[r], code, bits, x);
    }
    if (!one_by_one) fetch(in, 0);  // not before all its words are used: they would be moved out of the way
  };

  // A warp's own piece of its s-th strip is left at s + warp: no two of them meet, since the next one begins where a warp or a strip ends.
  const int sums = args.t * sums_of_vector<Code>;
  Sum* to = pieces + (at_once ? begun : begun + warp) * piece + (natural ? lane / 4 * 2 : lane / 4);
  const auto leave = [&] {
    // Lane 4g + c holds two rows of columns 2c and 2c + 1. Both f16 parts of a vector are in one lane.
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int group = 0; group < groups; ++group) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Sum(&from)[4] = d[r][group];
          const int row = r * 16 + (natural ? i : i * 8);
          if constexpr (Code::bytes) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int column = group * 8 + lane % 4 * 2 + j;
              if (column >= sums) continue;
              if constexpr (at_once) atomicAdd(to + column * (kRows + 1) + row, from[2 * i + j]);
              else to[column * (kRows + 1) + row] = from[2 * i + j];
            }
          } else {
            const int vector = group * 4 + lane % 4;
            if (vector < sums) to[vector * (kRows + 1) + row] = from[2 * i] + from[2 * i + 1];
          }
          from[2 * i] = from[2 * i + 1] = 0;
        }
      }
    }
    to += piece, mine -= static_cast<int64_t>(chunks) * 64 * size;
  };
  int until = min(chunks - column, count), rest = count - until;  // chunks to the end of a strip; those after them
  const auto done = [&] {
    if (--until > 0) return false;
    leave();
    until = min(chunks, rest), rest -= until;
    return until == 0;
  };
  if (until > 0) {
    while (true) {
      step(queue[0], queue[ahead - 1]);
      if (done()) break;
      if constexpr (soon) vectors();
      if constexpr (ahead == 2) {
        step(queue[1], queue[0]);
        if (done()) break;
        if constexpr (soon) vectors();
      }
    }
  }
  if (vector < args.t) {
    if (Code::table_bytes > 0 && __cvta_generic_to_shared(shared) != kSharedStart) __trap();  // the table is elsewhere than lookups think
    if (!Code::bytes && lane == 0) closing.gain[vector] = unit;
  }

  // A warp adds the pieces of a strip and vector, lane by row, eight at a time.
  constexpr int sum_words = sums_of_vector<Code> * (kRows + 1);
  const auto add = [](const Sum (&v)[8]) { return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])); };
  const auto worth = [&](const Sum (&sum)[sums_of_vector<Code>], auto gain, double offset) {
    if constexpr (Code::bytes) return static_cast<float>(static_cast<double>(sum[0] * int64_t{65536} + sum[1] * int64_t{256} + sum[2]) * gain + offset);
    else return sum[0] * gain;
  };
  if (whole) {
    // One warp is on its way here, so what it can know before is worked out before.
    uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(pieces + (warp * sum_words + lane)));
    float* to = args.y + (static_cast<int64_t>(warp) * args.m + first * kRows + lane);
    asm volatile("" : "+r"(from), "+l"(to));
    __syncthreads();
    if (warp >= args.t) return;
    const auto gain = closing.gain[warp];
    Sum sum[sums_of_vector<Code>] = {};
#pragma unroll
    for (int part = 0; part < sums_of_vector<Code>; ++part) {
#pragma unroll
      for (int i = 0; i < warps; i += 8) {
        Sum v[8] = {};
#pragma unroll
        for (int j = 0; j < 8 && i + j < warps; ++j) {
          uint32_t word;
          asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(from + ((i + j) * piece + part * (kRows + 1)) * 4) : "memory");
          v[j] = Code::bytes ? static_cast<Sum>(static_cast<int>(word)) : static_cast<Sum>(__uint_as_float(word));
        }
        sum[part] += add(v);
      }
    }
    if (first * kRows + lane < args.m) *to = worth(sum, gain, closing.offset[warp]);
    return;
  }
  int strip = warp, b = 0;
  for (; strip >= own && b < args.t; ++b) strip -= own;
  __syncthreads();
  while (b < args.t) {
    const int low = at_once ? 0 : closing.low[strip], high = at_once ? 0 : closing.high[strip];
    const Sum* from = pieces + ((strip + low) * piece + b * sum_words + lane);
    Sum sum[sums_of_vector<Code>] = {};
    if constexpr (at_once) {
#pragma unroll
      for (int part = 0; part < sums_of_vector<Code>; ++part) sum[part] = from[part * (kRows + 1)];
    } else {
#pragma unroll 1
      for (int more = high - low; more >= 0; more -= 8, from += 8 * piece) {
#pragma unroll
        for (int part = 0; part < sums_of_vector<Code>; ++part) {
          Sum v[8];
#pragma unroll
          for (int j = 0; j < 8; ++j) v[j] = j <= more ? from[j * piece + part * (kRows + 1)] : 0;
          sum[part] += add(v);
        }
      }
    }
    const int at = (first + strip) * kRows + lane;
    if (at < args.m) args.y[static_cast<int64_t>(b) * args.m + at] = worth(sum, closing.gain[b], closing.offset[b]);
    for (strip += warps; strip >= own && b < args.t; ++b) strip -= own;
  }
}

// Of a block of so many strips.
template <class Code>
constexpr int shared_bytes(int warps, int strips, int groups) {
  return Code::table_bytes + static_cast<int>(sizeof(Closing<Code>)) + (strips + warps) * piece_of<Code>(groups) * 4;
}

struct Card {
  int multiprocessors;
  int most_shared;  // bytes of a block, less kSharedStart where that counts
  bool overlaps;    // a kernel may begin while the one before it in the stream still runs, and waits where it needs what that writes
};

// Chunks of a block up to which it asks for all shared memory there is, and leaves the level-1 cache little: mul1 at 3 and 4 bits then takes 3 to 5 %
// less, with more chunks as much more; hyb, and 2 bits, take the same (bench/product_cuda.cu). Measured with one vector.
template <class Code, int K, int groups>
constexpr int few_chunks = Code::bytes && K >= 3 && groups == 1 ? 240 : 0;

template <class Code, int K, bool natural, int groups, int warps, int ahead>
cudaError_t launch(Args args, const Card& card, cudaStream_t stream) {
  const auto function = kernel<Code, K, natural, groups, warps, ahead>;
  // As few blocks as take no longer than all the card has: the kernels before and after have room beside them.
  int blocks = card.multiprocessors;
  if (args.n > 1 << 23) return cudaErrorInvalidValue;  // for which args.inverse is not exact
  args.chunks = padded(args.n) / 64, args.inverse = ((uint64_t{1} << 40) + args.chunks - 1) / args.chunks;
  const int strips = (args.m + kRows - 1) / kRows, turns = (strips + kStrips * blocks - 1) / (kStrips * blocks);
  const int most = (strips + turns * blocks - 1) / (turns * blocks), chunks = most * args.chunks;
  const int bytes = (chunks <= few_chunks<Code, K, groups> ? card.most_shared : shared_bytes<Code>(warps, most, groups)) + (card.overlaps ? 0 : kSharedStart);
  blocks = (strips + most - 1) / most;
  for (int i = 0; i < 8; ++i) args.powers[i] = 1u << i;
  args.each = strips / blocks, args.more = strips % blocks;
  for (int i = 0; i < 2; ++i) args.few[i] = (args.each + i) * args.chunks / warps, args.extra[i] = (args.each + i) * args.chunks % warps;
  const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  return ops::launch(function, blocks, 32 * warps, bytes, stream, card.overlaps, args);
}

}  // namespace ops::product
