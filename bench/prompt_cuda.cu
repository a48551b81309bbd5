// Checks and times products of packed weights with many vectors, a prompt's, without Node:
//
//   nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr bench/prompt_cuda.cu -o prompt-bench
//   prompt-bench check                 every code, rate and order, both kernels, against sums in float64 of decoded weights
//   prompt-bench time [pieces]         µs of Llama-2-7B's products, replays of a CUDA graph over 200 MB of weights; `pieces`: for every cut of the columns
//   prompt-bench once                  one launch of each kernel, for a profiler
//
// The two numbers, 128 vectors: a chunk of 64 columns of a block's 256 rows is 16 instructions of 64 × 128 × 16, 1024 cycles of matrix units, for which
// these read 64 KB of vectors from shared memory, 512 cycles, besides 256 for lookups; decoding is 16 × 150 instructions, 600 cycles of four schedulers.
// 202 million weights of a layer are 94 chunks a multiprocessor, 56 µs at 1.7 GHz.
//
// What was tried, H100 80GB HBM3, driver 580.159.04, CUDA 13.0, hyb at 2 bits, µs a layer of Llama-2-7B:                32    128   1024 vectors
//   matrix instructions of a warp, operands of vectors loaded by each (prompt_product_kernel.cuh)                     130.7  211.2
//   of warpgroups: two groups, two rows of tiles each, one decoded while the other is multiplied; vectors copied by all
//   threads, a barrier a chunk                                                                                        106.9  193.4   1089
//   four groups, a row of tiles each; a chunk of vectors is one bulk copy, waited for by its barrier (predicted 56)    97.8  135.9    797
//   the same, half a chunk decoded while the other half is multiplied (predicted 60)                                  102.6  144.3    872  (dropped)
//   the same, two groups multiply while two decode, in turns (predicted 60)                                            96.9  135.1    962  (dropped)
//   without those, columns cut into pieces as 0.9 µs a chunk say, not 0.6                                              95.6  120.7    807
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/codebooks/trellis/decode_kernel.cuh"
#include "../native/codebooks/trellis/prompt_product.h"
#include "../native/codebooks/trellis/prompt_warpgroup_kernel.cuh"
#include "replays.cuh"

using namespace ops::prompt;
using namespace ops::product;

namespace {

// Microseconds of a chunk that pieces are chosen for.
constexpr double kChunk = 1.95, kWarpgroupChunk = 0.9;

struct Case {
  const char *code, *kernel;
  int K, panel;
  bool natural, placed;
  size_t bytes;
  double chunk;
  void (*product)(ProductArgs);
  void (*decode)(DecodeArgs);
  size_t decode_bytes;
};
template <class Pairs, int K, bool natural, int vectors>
Case older(const char* code) {
  return {code, "registers", K, vectors, natural, false, product_bytes<Pairs, vectors / 8>(), kChunk,
          prompt_product_kernel<Pairs, K, natural, vectors / 8>, decode_kernel<Pairs, K, natural, float>, decode_bytes<Pairs>(8)};
}
template <class Pairs, int K, bool natural, int vectors>
Case warpgroup(const char* code) {
  return {code, "warpgroup", K, vectors, natural, true, warpgroup_bytes<Pairs, vectors>(), kWarpgroupChunk,
          warpgroup_product_kernel<Pairs, K, natural, vectors>, decode_kernel<Pairs, K, natural, float>, decode_bytes<Pairs>(8)};
}
template <class Pairs, int K, bool natural>
std::vector<Case> all(const char* code) {
  return {older<Pairs, K, natural, 64>(code), older<Pairs, K, natural, 128>(code), warpgroup<Pairs, K, natural, 64>(code),
          warpgroup<Pairs, K, natural, 128>(code)};
}
using Inst3Pairs = HalvesPairs<89226354u, 64248484u>;
using McgPairs = HalvesPairs<0xcbac1fedu, 0>;
const std::vector<std::vector<Case>> timed{all<HybPairs, 2, true>("hyb"), all<HybPairs, 4, true>("hyb"), all<Mul1Pairs, 2, true>("mul1"),
                                           all<Inst3Pairs, 2, true>("3inst")};
const std::vector<std::vector<Case>> checked{
    all<HybPairs, 1, true>("hyb"),   all<HybPairs, 2, true>("hyb"),   all<HybPairs, 3, true>("hyb"),    all<HybPairs, 4, true>("hyb"),
    all<HybPairs, 1, false>("hyb"),  all<HybPairs, 2, false>("hyb"),  all<HybPairs, 3, false>("hyb"),   all<HybPairs, 4, false>("hyb"),
    all<Mul1Pairs, 2, true>("mul1"), all<Mul1Pairs, 3, true>("mul1"), all<Mad1Pairs, 2, true>("1mad"), all<Inst3Pairs, 2, true>("3inst"),
    all<McgPairs, 1, true>("mcg")};

std::vector<uint32_t> table() {
  std::vector<uint32_t> entries(512);
  for (size_t i = 0; i < entries.size(); ++i) {
    const __half2 pair = __floats2half2_rn(static_cast<float>(gaussian(2 * i)), static_cast<float>(gaussian(2 * i + 1)));
    std::memcpy(&entries[i], &pair, 4);
  }
  return entries;
}

void enqueue(const Case& c, const ProductArgs& args, int pieces, cudaStream_t stream) {
  check(cudaFuncSetAttribute(c.product, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(c.bytes)), "shared");
  const int threads = c.placed ? 32 * kHalves : 32 * kStrips;
  const dim3 grid((args.m + 255) / 256, pieces, (args.vectors + c.panel - 1) / c.panel);
  check(ops::launch(c.product, grid, threads, c.bytes, stream, c.placed, args), c.kernel);
}

int check_all() {
  int bad = 0;
  const uint32_t* const entries = upload(table());
  for (const auto& cases : checked) {
    for (const Case& c : cases) {
      for (const auto& [m, n, t, pieces] : {std::array{48, 112, 130, 1}, std::array{592, 688, 70, 3}, std::array{272, 1024, 17, 16}}) {
        const int chunks = (n + 63) / 64;
        std::vector<uint32_t> packed(static_cast<size_t>((m + 31) / 32) * chunks * 64 * c.K);
        for (size_t i = 0; i < packed.size(); ++i) packed[i] = hashed(i);
        std::vector<__half> x(static_cast<size_t>(t) * n), given(c.placed ? static_cast<size_t>(t + c.panel) * chunks * 64 : x.size());
        for (size_t i = 0; i < x.size(); ++i) x[i] = __float2half(static_cast<float>(gaussian(i + 99)));
        for (int b = 0; b < t; ++b) {
          for (int i = 0; i < n; ++i) {
            const size_t from = static_cast<size_t>(b) * n + i;
            given[c.placed ? 2 * place(b, i / 2, chunks, c.panel, c.natural) + i % 2 : from] = x[from];
          }
        }
        const uint32_t* const d_packed = upload(packed);
        float* const d_w = upload(std::vector<float>(static_cast<size_t>(m) * n));
        float* const d_z = upload(std::vector<float>(static_cast<size_t>(pieces) * t * m, NAN));
        check(cudaFuncSetAttribute(c.decode, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(c.decode_bytes)), "shared");
        c.decode<<<16, 256, c.decode_bytes>>>({d_packed, entries, d_w, m, n, chunks});
        enqueue(c, {d_packed, entries, upload(given), d_z, m, n, t}, pieces, nullptr);
        std::vector<float> w(static_cast<size_t>(m) * n), z(static_cast<size_t>(pieces) * t * m);
        check(cudaMemcpy(w.data(), d_w, w.size() * 4, cudaMemcpyDeviceToHost), c.kernel);
        check(cudaMemcpy(z.data(), d_z, z.size() * 4, cudaMemcpyDeviceToHost), c.kernel);
        double error = 0, power = 0;
        for (int b = 0; b < t; ++b) {
          for (int row = b % 3; row < m; row += 3) {
            double expected = 0, got = 0;
            const __half* const one = x.data() + static_cast<size_t>(b) * n;
            for (int i = 0; i < n; ++i) expected += static_cast<double>(w[static_cast<size_t>(row) * n + i]) * __half2float(one[i]);
            for (int p = 0; p < pieces; ++p) got += z[(static_cast<size_t>(p) * t + b) * m + row];
            error += (got - expected) * (got - expected), power += expected * expected;
          }
        }
        const bool ok = error / power < 1e-11;
        bad += !ok;
        const char* const order = c.natural ? "rows" : "tc";
        if (!ok) std::printf("%-5s %s %d, K=%d %s, %d x %d x %d: NMSE %.1e BAD\n", c.code, c.kernel, c.panel, c.K, order, m, n, t, error / power);
      }
    }
  }
  std::printf("%zu kernels, %d bad\n", checked.size() * 4, bad);
  return bad;
}

struct Layer {
  const char* name;
  int m, n;
};
const Layer layer[] = {{"q, k, v", 12288, 4096}, {"o", 4096, 4096}, {"gate, up", 22016, 4096}, {"down", 4096, 11008}};

void time_all(bool every) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  int multiprocessors;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "device");
  const size_t pool = size_t{200} << 20;
  std::vector<uint32_t> random(pool / 4);
  for (size_t i = 0; i < random.size(); ++i) random[i] = static_cast<uint32_t>(i * 0x9E3779B97F4A7C15 >> 23);
  const uint32_t *const packed = upload(random), *const entries = upload(table());
  std::vector<__half> numbers(size_t{2048} * 11008);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = __float2half(static_cast<float>(static_cast<int>(hashed(i) % 2001) - 1000) * 1e-3f);
  const __half* const x = upload(numbers);
  float* z;
  check(cudaMalloc(&z, size_t{2048} * 22016 * 4 * 4), "cudaMalloc");
  for (const auto& cases : timed) {
    for (const int t : {17, 32, 64, 128, 256, 512, 1024, 2048}) {
      for (const Case& c : cases) {
        if ((c.panel < 128) != (t <= 64) || (!c.placed && t > 512) || (&cases != &timed[0] && t != 32 && t != 128 && t != 1024)) continue;
        std::printf("%-5s %d bits %-9s %4d vectors", c.code, c.K, c.kernel, t);
        double sum = 0;
        for (const auto& [name, m, n] : layer) {
          const size_t words = static_cast<size_t>(m) * n * c.K / 32, copies = pool / 4 / words;
          const auto timed = [&](int pieces) {
            return microseconds(stream, static_cast<int>(std::min<size_t>(copies, t > 256 ? 4 : 10)),
                                [&](int i) { enqueue(c, {packed + i % copies * words, entries, x, z, m, n, t}, pieces, stream); });
          };
          const int pieces = pieces_of(m, n, t, c.panel, c.chunk, multiprocessors);
          const double us = timed(pieces);
          sum += us;
          std::printf("  %s %.1f (%d)", name, us, pieces);
          for (int other = 1; every && c.placed && t <= 128 && other <= 16; ++other) std::printf(" %d:%.1f", other, timed(other));
        }
        std::printf("  layer %.1f us, %.0f TFLOP/s\n", sum, 2.0 * t * 202.375168 / sum);
      }
    }
  }
}

void launch_once() {
  const uint32_t* const packed = upload(std::vector<uint32_t>(size_t{4096} * 4096 / 8, 0x9E3779B9));
  for (const Case& c : timed[0]) {
    float* const z = upload(std::vector<float>(size_t{16} * 4096 * 128));
    enqueue(c, {packed, upload(table()), upload(std::vector<__half>(128 * 4096)), z, 4096, 4096, c.panel}, 8, nullptr);
    check(cudaDeviceSynchronize(), c.kernel);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "check") return check_all();
    if (what == "time") return time_all(count > 2), 0;
    if (what == "once") return launch_once(), 0;
    std::fprintf(stderr, "prompt-bench check | time [pieces] | once\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 2;
}
