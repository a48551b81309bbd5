// Checks and times products with packed weights on a GPU, without Node:
//
//   nvcc -std=c++20 -O3 -arch=sm_90 --expt-relaxed-constexpr bench/product_cuda.cu -o product-bench
//   product-bench check | time
//   product-bench once CODE K m n      one launch of each variant, for a profiler
//
// time: µs a product, replays of a CUDA graph over buffers larger than the level-2 cache, beside the copy bandwidth of the card.
//
// The two numbers, HYB at 2 bits on an H100: a chunk (32 × 64 weights) takes 512 bytes and at least 32 × 5 instructions of a warp (shift,
// s·s + s, double, mask with the lane, load), so 28672 × 8192 takes 20 µs of memory at 3 TB/s and 23 µs of issue slots.
//
// What was tried, H100 80GB HBM3, CUDA 13.0, µs at 4096 × 4096, 28672 × 8192 and 8192 × 28672, 2 bits:
//   x split into its parts by every block, table of one sign, 32 × 32 chunks                       8.7   53.1
//   x prepared once, chunks of two row tiles, next kernel begins early                             6.3   49.1
//   the same, both signs in the table (128 KB)                                                     6.2   45.7   40.7
//   x in 16-byte loads, chunks go round among warps over strips, words not moved between queues    5.5   42.7   37.9
//   sums of a strip added by one warp while the others go on (mbarrier)                            5.7   40.2   38.5
//   the same, one chunk ahead in place of two (56 registers)                                       5.4   41.0   38.8
//   16 warps a block, one chunk ahead of two and two blocks a multiprocessor, to overlap kernels   7.6   45.0   44.9
//   mul1 by the integer instruction (bytes as four places along k)                                 6.6   60.7
//   the same, states by byte permutes of shifted words                                             6.0   49.4   47.3
//   3inst by the f16 instruction (halves as two places along k)                                    8.1   85.8
//   the same, by byte permutes                                                                     7.9   75.7   74.0
//   one of products, weights, table, x left out (wrong, to see what bounds)                   5.0…5.3  39.7…41.3
// Neither memory, nor shared memory, nor the matrix instructions bound it: instructions do, 260 a chunk of which 45 at the ends of strips.
//   a lane has 32 weights of one tile that follow each other: a state is one funnel shift of two words, 185 instructions a
//   chunk; a warp's chunks follow each other: two strip ends a warp in all; x loaded by the lanes that need it alone.
//   Predicted 4.0, 33 and 33                                                                       5.8   33.6   33.2
//   the same, mul1: 200 instructions a chunk of 245                                                6.1   41.4   41.2
//   the same, 3inst                                                                                7.8   70.6   70.6
//   the same, hyb: x of the next chunk loaded before this one is decoded, 32, 24 and 16 warps     5.9…6.1  34.2…38.5
//   the same, hyb, 24 warps of 80 registers (mul1: 5.9, 41.1)                                      5.7   34.2   33.9
//   the same, doubled by a multiplication, as the pipe of shifts and masks is the busier (predicted 6 % less)   5.7   33.2   32.8
//   the same, lookups of the next instruction before this one's                                    5.7   33.1   32.7  (dropped)
//   24 warps for all, no 64-bit division before the loop, and as few blocks as take no longer      5.5   32.8   32.7
//   the same, mul1 (predicted as hyb: its byte permutes and shifts, 116 a chunk, have one pipe)    5.8   40.9   40.8
//   3inst with its mask in a register that the assembler does not know, 64 instructions a chunk    6.5   55.5   55.5
//   the same, hyb, 28 warps of 72 registers                                                        5.6   32.1   32.2
//   the end of a block without divisions and addresses (1080 cycles of one warp), what it needs of x fetched early, table asked for first,
//   words loaded in place, not by a branch whose end copies them and so waits (820 cycles before the table); hyb    4.6   31.6   31.5
//   the same, mul1                                                                                                  4.9   39.6   39.7
//   the same, 3inst                                                                                                 5.7   53.9   53.8
//   the same, hyb, the first chunk decoded before x is there (a step of Llama-2-7B takes 1.87 ms, without 1.84)     4.7   32.0   32.0  (dropped)
//   the same, hyb, 28 warps                                                                                         4.7   31.0   30.9
//   the same, hyb, strips in pairs, x loaded once for both (predicted 4 % less; eight texts of Llama-2-7B 3.77 ms a step for 3.63)  5.0  33.1  33.3  (dropped)
//   before that: table of one sign, 12 or 16 warps, so that a block of the next kernel has room beside this one     6.1   66     66    (dropped)
//   before that: 64 KB of each block's weights into the level-2 cache (4 bits: 41.1 for 42.4, but a step 2.15 for 2.06)  5.4  34.0  34.0  (dropped)
//   before that: mul1's shifts as multiplications, 75 % of the byte permutes' pipe's work (3 bits: 51.1 to 48.0)    5.8   42.0   42.0  (3 bits alone)
//   sums of bytes: what they are worth is worked out while x is on its way, x of the next chunk asked for at a step's end; mul1   4.8   39.6   40.1
//   the same, a sum's pieces added by 16 lanes (predicted 350 cycles of 530 less); hyb 4.8, mul1 4.9 and 38.3                         (dropped)
//   before that, 4096 × 4096 and 8192 × 28672: half of the table filled after the wait, to hide x's way (predicted 500 cycles); hyb 4.8, 31.1 (dropped)
//   … the second chunk asked for after x, which else waits behind it; hyb 4.6, 33.6, mul1 4.8, 40.4                                   (dropped)
//   … a block's end gone through once by a warp that is done early, for its instructions to be there; hyb 4.6, mul1 5.2                (dropped)
//   3inst, of two states that make a word the second by multiplications (predicted 6 %: its masks and permutes bound it)      5.5   51.7   51.7
//   the same, mul1 (its permutes and shifts were busy for 68 % of the time; so they are not what bounds it)                   4.9   41.1   41.1  (dropped)
//   mul1, 3 bits: integers added in shared memory as warps leave them, no pieces (predicted 0.2 us less), 4096 x 4096 5.6 to 5.5, 45.7 to 44.9
//   the same, 2 and 4 bits                                                                          4.9 of 4.8 and 5.8 of 5.7          (dropped)
//   hyb, 4096 x 4096: x asked for before the table is stored, between its halves, or before the block has it      5.0, 4.7, 4.65 of 4.6 (dropped)
//   … x into shared memory by one copy in bulk, asked for by a warp of its own, which alone waits; 14 KB take 1700 to 2600 cycles  5.2  (dropped)
//   … 16 warps with all their four chunks on the way, 24 with three, 32 of 64 registers               4.55, 4.75, 4.8, at 4096 x 11008 no better
//   … 16 warps of 64 registers and a table of one sign, so that the next kernel's block stands beside this one's: 4.4 where spare blocks keep two
//   of one kernel off a multiprocessor (by sleeping in the place), else 6.5; mul1 4.9; 4096 x 11008 9.6 of 8.4                         (dropped)
//   … the table asked for by 16 warps, a line each, in place of sixteen bytes by 128 (predicted 500 cycles, if all blocks' requests for one line wait
//   for each other in the level-2 cache)                                                         4.65 to 4.7 of 4.5 to 4.55, at 3 bits 33.9 of 35.3 (dropped)
//   … two, four and eight copies of x, for the same reason                                       4.65 to 4.7 of 4.65 to 4.7                  (dropped)
//   … x asked for after the wait and before the table is stored, by loads that the compiler cannot move (predicted 4.1)              4.8     (dropped)
//   … the first chunk decoded before the wait, whose lookups then no longer cover x's way; 28672 x 8192 as before. With its Hadamards 8192 x 8192
//   12.7 of 13.2 in a row and gate and up 17.6 of 18.3, but 4096 x 4096 6.4 of 6.2; a layer the same. By half of the warps: more      4.75    (dropped)
//   as much shared memory as there is, and so a small level-1 cache: mul1 at 4096 x 4096, 3 and 4 bits 5.3 of 5.5 and 5.4 of 5.7, at 11008 x 4096 11.0 of
//   11.3 and 10.6 of 11.0, but at 28672 x 8192 44.3 of 44.0 and 45.0 of 42.9 (where there are few chunks); hyb and 2 bits the same
//   … x into shared memory by eight warps, or by one more, that wait while the others fill the table: mul1, which has none, 5.7 and 7.9 of 4.8 (dropped)
//   What 4.0 would take: the same without waiting for the kernel before is 4.36, without storing the table 3.97 (both wrong).
//   A block of hyb at 4096 x 4096 by the clock then, of 8570 cycles and 420 to the next: table asked for at 580 and weights at 710, first entries there
//   at 1400, all of it at 3060, waited to 3240, first chunks done at 4660 to 5270, all at 7760, y at 8570. hyb, 4096 x 4096 and 8192 x 28672:
//   the table among the kernel's parameters, by loads of constants (predicted 4.3: no way to the level-2 cache; but that way takes as long)   4.4    31.7
//   … asked for by the first instructions, chunks of a warp divided by the host (predicted 4.15)                                            4.3    31.4
//   … weights asked for when the table's first entries are there: both's way was longer beside all blocks' weights, most where a block begins late 4.15 31.2
//   … no division; what sums are worth is noted behind the loop                                                                             4.12   31.3
//   … a block of one strip ends by a path without loops and addresses (700 cycles to 280)                                                   4.1    31.6
//   … the second chunk asked for when the first is there: loads into registers share one counter, by which the assembler waits for all that are
//   on their way, so a chunk waited for the next, and in the loop each for the one after it                                                 4.03   31.2
//   … the same, x asked for before that wait, not behind it                                                                                 4.0    31.4
//   … bounds of pieces, which one strip does not need, were written behind the whole table (200 cycles)                                     3.95   31.2
//   … 4 bits: the second chunk asked for ahead into the level-2 cache, 9.5 to 9.2 at 11008 x 4096; at 2 and 3 bits, and 3inst, as long or longer
//   Of these, dropped: x asked for at once after the wait, by three ways to bring the assembler to it (its way is 300 cycles; 4.25 to 4.35, of which the
//   loop is 0.05), weights by copies into shared memory, two to four chunks on their way (4.3 to 4.4, 34.7: shared memory is busy), 16 warps (4.4 to 4.8),
//   28 (4.2, 30.8) and 32 (4.1, 31.0), columns of x that differ from block to block (the same).
//   mul1 with its chunks one by one: 4.6 of 4.75 at 4096 x 4096, 43.5 of 40 at 8192 x 28672 (dropped: two kernels for one shape)
//   mul1, x of the next chunk asked for a whole chunk ahead (its loads wait for weights, and it for them, 10 % of a warp's time by the profile): 4.65 of
//   4.7, 40.2 of 39.4, 4 bits 47.2 of 44.2                                                                                         (dropped)
//   mul1, weights by cp.async through a ring of three, four, five and eight chunks of a warp in shared memory, which it has free, x a chunk ahead (by
//   the profile, 5 % less): 4.6 to 4.9 of 4.7, 41.6, 42.2, 42.0 and 43.2 of 39.4, 4 bits 43.4 to 48.6 of 44.2. So loads are not what it waits for (dropped)
// Of these the assembler's order of the loop made more than what was meant: at 8192 × 28672, where ends do not count, one source's loop took 38.2 to
// 42.2 us (mul1) and 31.2 to 33.6 (hyb) as what is around it changed.
// A block of hyb at 4096 x 4096 by the clock now (marks, which are part of it): table there at 1980, waited to 2190, chunks done at 6770, y at 7090, the
// next block 480 after. Before that: 760 cycles to its first loads, 2700 to the table, 3200 to the end of the wait, 4200 to 4500 when all have x, 7600 for its
// chunks, 8470 to its end (by a copy of the kernel with marks in memory, which are part of it); the last blocks begin 0.3 us after the last of the
// kernel before has ended.
// By the card's clock (marks again), ns, hyb at 4096 x 4096, one kernel of a chain: what the kernel before has left is seen 230 after its last block's
// end; blocks begin up to 1400 apart, and those that begin last end last, and so does the next kernel's on their multiprocessor: it is never idle, and
// its 1660 to the table, 100, 2400 for x and chunks, and 420 for the end are the 4550, while others wait.
// A block of hyb at 4096 x 4096 by the clock, before that: 650 cycles from the end of the one before it, 1500 to the loads of the first weights, 2100
// for the table, 500 for x, 3700 for its chunks, 1080 for the end; a chain of empty kernels takes 0.77 us a kernel.
// What bounds: from 8192 × 8192 to 8192 × 28672 a chunk and scheduler take 243 (hyb), 314 (mul1) and 352 cycles (mul1, 3 bits) of 1.81 GHz, which are
// the 188, 206 and 247 instructions and 6.6 to 6.9 for each of the 8, 16 and 16 matrix instructions: so mul1, which has 64 registers of A a chunk
// where hyb has 32, can't be as fast with either kind (bench/matrix_rates_cuda.cu: wgmma with A in registers takes 8 to 9.5). From registers, nothing
// loaded, it takes 271 (bench/decode_rates_cuda.cu).
// 3inst: 433, 276 of them instructions, and 340 of the pipe of shifts, masks and permutes.
// Profile of the line with 185 instructions at 8192 × 28672: 2.9 instructions a clock with start and end, shifts and masks 59 % busy,
// multiplications 48 %, shared memory 54 %; when one warp is chosen 3.6 others could be. At 4096 × 4096 1.5 a clock: warps wait for memory.
// Profile of the fifth line: 3.0 instructions a clock of 4, the integer pipe 58 % busy; warps that cannot go on wait for x from the level-1 cache.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/codebooks/trellis/product_code.h"
#include "../native/codebooks/trellis/product_operands.cuh"
#include "replays.cuh"

using namespace ops::product;

namespace {

struct Case {
  const char *name, *variant;
  ops::ProductCode code;
  int K;
  bool natural;
  int most;       // vectors of a launch
  cudaError_t (*launch)(Args, const Card&, cudaStream_t);
  void (*prepare)(const float*, unsigned char*, float*, int);
};
using enum ops::ProductCode;
#define CASE(Code, code, K, natural, groups, warps, ahead) \
  {#code, #Code " " #warps "w a" #ahead, code, K, natural, most_vectors<Code>(groups), \
   launch<Code, K, natural, groups, warps, ahead>, prepare_kernel<Code>}
#define EVERY(Code, code) \
  CASE(Code, code, 1, true, 1, 24, 2), CASE(Code, code, 2, true, 1, 24, 2), CASE(Code, code, 3, true, 1, 24, 2), \
  CASE(Code, code, 4, true, 1, 24, 2), CASE(Code, code, 2, false, 1, 24, 2)
const Case cases[] = {
    EVERY(Hyb<true>, hyb),
    CASE(Hyb<false>, hyb, 2, true, 1, 24, 2),
    CASE(Hyb<true>, hyb, 2, true, 1, 28, 2),
    EVERY(Bytes, mul1),
    EVERY(Halves, inst3),
#ifdef CHECK
    CASE(Hyb<true>, hyb, 1, false, 1, 24, 2), CASE(Hyb<true>, hyb, 3, false, 1, 24, 1), CASE(Hyb<true>, hyb, 4, false, 2, 24, 1),
    CASE(Bytes, mul1, 1, false, 2, 24, 1), CASE(Bytes, mul1, 3, false, 2, 24, 1), CASE(Bytes, mul1, 4, false, 2, 24, 1),
    CASE(Bytes, mul1, 3, false, 1, 24, 2), CASE(Halves, mcg, 2, true, 2, 24, 1), CASE(Bytes, mad1, 2, true, 2, 24, 1),
#endif
};

// The arguments that a code fixes.
Args with_code(Args args, ops::ProductCode code) {
  args.mask = 0x8fff8fff;
  if (code == hyb) args.factor = 2;
  if (code == inst3) args.factor = 89226354, args.addend = 64248484;
  if (code == mcg) args.factor = 0xcbac1fed;
  if (code == mad1 || code == mul1) {
    const ByteSum sum = byte_sum_of(code);
    args.factor = sum.factor, args.addend = sum.addend;
    args.gain = static_cast<float>(sum.gain), args.offset = static_cast<float>(sum.offset - 510 * sum.gain);
  }
  return args;
}

double reference(const Case& c, const std::vector<int16_t>& stored, const std::vector<uint16_t>& table, const float* x, int n, int row) {
  double sum = 0;
  for (int column = 0; column < n; ++column) {
    const int16_t* const words = stored.data() + (static_cast<size_t>(row / 16) * (n / 16) + column / 16) * 16 * c.K;
    const int V = c.code == hyb ? 2 : 1, p = place(row % 16, column % 16, !c.natural);
    const Weights w = value(c.code, state_at(words, p / V * V * c.K, c.K), table.data());
    sum += static_cast<double>(p % V == 0 ? w.first : w.second) * x[column];
  }
  return sum;
}

std::vector<uint16_t> pairs() {
  std::vector<uint16_t> table(1024);
  for (int i = 0; i < 1024; ++i) table[i] = __half_raw(__float2half(static_cast<float>(gaussian(i)))).x;
  return table;
}

int check_all(const Card& card) {
  int bad = 0;
  const auto table = pairs();
  uint16_t* const d_table = upload(table);
  const int shapes[][2] = {{16, 16}, {48, 80}, {4272, 192}, {2112, 4096}, {32, 24576}, {160000, 64}};
  for (const Case& c : cases) {
    for (const auto& [m, n] : shapes) {
      const int t = m == 16 ? 1 : c.most;
      const size_t size = static_cast<size_t>((m + 31) / 32) * (padded(n) / 64) * 256 * c.K;
      std::vector<int16_t> stored(static_cast<size_t>(m) * n / 16 * c.K);
      for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<int16_t>(hashed(i));
      std::vector<float> x(static_cast<size_t>(t) * n), y(static_cast<size_t>(t) * m, NAN);
      for (size_t i = 0; i < x.size(); ++i) x[i] = gaussian(i + 77) * (i == 5 ? 6 : 1);
      int16_t* const d_stored = upload(stored);
      unsigned char* const d_packed = upload(std::vector<unsigned char>(size, 0xff));
      float* const d_x = upload(x);
      float* const d_y = upload(y);
      unsigned char* const d_parts = upload(std::vector<unsigned char>(static_cast<size_t>(t) * 4 * padded(n), 0xff));
      float* const d_units = upload(std::vector<float>(2 * t));
      arrange_kernel<<<1024, 256>>>(reinterpret_cast<unsigned char*>(d_stored), d_packed, size, m, n, c.K);
      c.prepare<<<t, 1024>>>(d_x, d_parts, d_units, n);
      const Args args{reinterpret_cast<uint32_t*>(d_packed), reinterpret_cast<uint32_t*>(d_table), d_parts, d_units, d_y, m, n, t, 1};
      check(c.launch(with_code(args, c.code), card, nullptr), c.name);
      check(cudaMemcpy(y.data(), d_y, y.size() * 4, cudaMemcpyDeviceToHost), c.name);
      double error = 0, power = 0;
      for (int b = 0; b < t; ++b) {
        for (int row = 0; row < m; row += std::max(1, m / (n > 1000 ? 6 : 30))) {
          const double expected = reference(c, stored, table, x.data() + static_cast<size_t>(b) * n, n, row);
          error += std::pow(y[static_cast<size_t>(b) * m + row] - expected, 2), power += expected * expected;
        }
      }
      const double relative = std::sqrt(error / power);
      const bool ok = relative < 3e-5;  // NMSE 1e-9
      bad += !ok;
      std::printf("%-6s %-26s K=%d %s %5d x %5d x %d  relative error %.1e %s\n", c.name, c.variant, c.K, c.natural ? "rows" : "tc  ", m, n, t, relative,
                  ok ? "" : "BAD");
      cudaFree(d_stored), cudaFree(d_packed), cudaFree(d_x), cudaFree(d_y), cudaFree(d_parts), cudaFree(d_units);
    }
  }
  std::printf("%d bad\n", bad);
  return bad;
}

void time_all(const Card& card, const char* only) {
  const auto table = pairs();
  uint16_t* const d_table = upload(table);
  const size_t pool = size_t{600} << 20;
  std::vector<uint32_t> random(1 << 20);
  for (size_t i = 0; i < random.size(); ++i) random[i] = hashed(i);
  unsigned char *d_pool, *d_other;
  check(cudaMalloc(&d_pool, pool), "cudaMalloc");
  check(cudaMalloc(&d_other, pool), "cudaMalloc");
  for (size_t at = 0; at + (4 << 20) <= pool; at += 4 << 20) check(cudaMemcpy(d_pool + at, random.data(), 4 << 20, cudaMemcpyHostToDevice), "fill");
  std::vector<float> x(65536);
  for (size_t i = 0; i < x.size(); ++i) x[i] = gaussian(i);
  float* const d_x = upload(x);
  float* const d_y = upload(std::vector<float>(1 << 20));
  unsigned char* const d_parts = upload(std::vector<unsigned char>(1 << 20));
  float* const d_units = upload(std::vector<float>(16));
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  const float copy = microseconds(stream, 1, [&](int) { cudaMemcpyAsync(d_other, d_pool, pool, cudaMemcpyDeviceToDevice, stream); });
  std::printf("{\"copyGBs\": %.0f, \"rows\": [\n", 2e-3 * pool / copy);
  const int shapes[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {14336, 4096}, {4096, 14336}, {8192, 8192}, {28672, 8192}, {8192, 28672}};
  bool more = false;
  for (const Case& c : cases) {
    if (only && c.name != std::string(only)) continue;
    for (const auto& [m, n] : shapes) {
      c.prepare<<<1, 1024>>>(d_x, d_parts, d_units, n);
      const size_t bytes = static_cast<size_t>(m) * n * c.K / 8;
      const int copies = static_cast<int>(std::max<size_t>(1, pool / bytes)), nodes = std::clamp(copies, 8, 120);
      const float us = microseconds(stream, nodes, [&](int i) {
        const Args args{reinterpret_cast<uint32_t*>(d_pool + i % copies * bytes), reinterpret_cast<uint32_t*>(d_table), d_parts, d_units, d_y,
                        m, n, 1, 1};
        check(c.launch(with_code(args, c.code), card, stream), c.name);
      });
      std::printf("%s  {\"code\": \"%s\", \"variant\": \"%s\", \"order\": \"%s\", \"K\": %d, \"m\": %d, \"n\": %d, \"us\": %.2f, \"GBs\": %.0f}",
                  more ? ",\n" : "", c.name, c.variant, c.natural ? "rows" : "tensor-core", c.K, m, n, us, bytes / us * 1e-3);
      more = true;
    }
  }
  std::printf("\n]}\n");
}

// One launch of every variant of a code and rate, for a profiler.
void launch_once(const Card& card, const char* code, int K, int m, int n) {
  uint16_t* const d_table = upload(pairs());
  const size_t words = static_cast<size_t>((m + 31) / 32) * ((n + 63) / 64) * 64 * K;
  uint32_t* const d_packed = upload(std::vector<uint32_t>(words, 0x9E3779B9));
  float* const d_x = upload(std::vector<float>(n, 1));
  float* const d_y = upload(std::vector<float>(m));
  unsigned char* const d_parts = upload(std::vector<unsigned char>(8 * (n + 64)));
  float* const d_units = upload(std::vector<float>(16));
  for (const Case& c : cases) {
    if (c.name != std::string(code) || c.K != K || !c.natural) continue;
    c.prepare<<<1, 1024>>>(d_x, d_parts, d_units, n);
    const Args args{d_packed, reinterpret_cast<uint32_t*>(d_table), d_parts, d_units, d_y, m, n, 1, 1};
    check(c.launch(with_code(args, c.code), card, nullptr), c.name);
    check(cudaDeviceSynchronize(), c.name);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "device");
    const Card card{device.multiProcessorCount, static_cast<int>(device.sharedMemPerBlockOptin), true};
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "check") return check_all(card);
    if (what == "time") return time_all(card, count > 2 ? arguments[2] : nullptr), 0;
    if (what == "once" && count == 6) {
      launch_once(card, arguments[2], std::atoi(arguments[3]), std::atoi(arguments[4]), std::atoi(arguments[5]));
      return 0;
    }
    std::fprintf(stderr, "usage: product-bench check | time [code] | once CODE K m n\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
