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
// What was tried, H100 80GB HBM3, CUDA 13.0, µs at 4096 × 4096 and 28672 × 8192, 2 bits:
//   x split into its parts by every block, table of one sign, 32 × 32 chunks            8.7   53.1
//   x prepared once, chunks of two row tiles, next kernel begins early                   6.3   49.1
//   the same, both signs in the table (128 KB)                                           6.2   45.7
//   the same, 16 warps a block, table of one sign                                        7.0   56.9
//   mul1 by the integer instruction (bytes as four places along k)                       6.6   60.7
//   3inst by the f16 instruction (halves as two places along k)                          8.1   85.8
// Profile of the third: 2.88 instructions a clock of 4, the integer pipe 55 % busy, 66 % of issue slots used.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/codebooks/trellis/product_kernel.cuh"

using namespace ops::product;

namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

uint32_t hashed(uint64_t i) {
  uint64_t z = (i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9, z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return static_cast<uint32_t>((z ^ z >> 31) >> 16);
}
double uniform(uint64_t i) { return (hashed(i) + 0.5) / 4294967296.0; }
double gaussian(uint64_t i) { return std::sqrt(-2 * std::log(uniform(2 * i))) * std::cos(2 * M_PI * uniform(2 * i + 1)); }
double half_bits(unsigned bits) { __half_raw h; h.x = static_cast<unsigned short>(bits); return __half2float(__half(h)); }
int bytes_of(uint32_t x) { return (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24); }

struct Case {
  const char* name;
  const char* variant;
  int V, K, batch;
  cudaError_t (*launch)(const Args&, int, cudaStream_t);
  void (*prepare)(const float*, unsigned char*, float*, int);
};
#define CASE(Code, name, V, K, batch, warps) {name, #warps " warps" #Code, V, K, batch, launch<Code, K, batch, warps>, prepare<Code>}
#define EVERY_K(Code, name, V) \
  CASE(Code, name, V, 1, 1, 32), CASE(Code, name, V, 2, 1, 32), CASE(Code, name, V, 3, 1, 32), CASE(Code, name, V, 4, 1, 32), CASE(Code, name, V, 2, 2, 32)
const Case cases[] = {
    EVERY_K(Hyb<false>, "hyb", 2),
    CASE(Hyb<true>, "hyb", 2, 2, 1, 32),
    CASE(Hyb<false>, "hyb", 2, 2, 1, 16),
    CASE(Hyb<false>, "hyb", 2, 4, 1, 16),
    EVERY_K(Mul1, "mul1", 1),
    CASE(Mul1, "mul1", 1, 2, 1, 16),
    EVERY_K(Mad1, "1mad", 1),
    EVERY_K(Inst3, "3inst", 1),
};

// Value v of state s by the codes' definitions.
double value(const std::string& name, const std::vector<uint32_t>& table, uint32_t s, int v) {
  if (name == "hyb") {
    const uint32_t u = s * (s + 1), pair = table[u >> 6 & 511];
    const double x = half_bits(v == 0 ? pair & 0xffff : pair >> 16);
    return v == 0 && (u >> 15 & 1) ? -x : x;
  }
  if (name == "mul1") return (1024 + bytes_of(s * 0x83DCD12Du)) * half_bits(0x1EEE) + half_bits(0xC931);
  if (name == "1mad") return (bytes_of(s * 34038481u + 76625530u) - 510) / 147.800537109375;
  const uint32_t r = ((s * 89226354u + 64248484u) & 0x8FFF8FFF) ^ 0x3B603B60;
  return half_bits(r >> 16) + half_bits(r & 0xFFFF);
}

// A tile's bits in the order of the walk, from the words of its chunk: lane ℓ's 8K bits are [8Kℓ, 8Kℓ + 8K).
struct TileBits {
  const uint32_t* chunk;
  int K, r, t;  // row tile, column tile
  int operator()(int bit) const {
    const int lane = bit / (8 * K) % 32, at = 8 * K * t + 8 * K - 1 - bit % (8 * K), word = r * K + at / 32;
    const int vector = K % 2 == 0 ? 4 : 2;
    return chunk[word / vector * 32 * vector + lane * vector + word % vector] >> at % 32 & 1;
  }
};

double reference(const Case& c, const std::vector<uint32_t>& packed, const std::vector<uint32_t>& table, const float* x, int n, int row) {
  const int chunks = (n + 63) / 64, KV = c.K * c.V;
  double sum = 0;
  for (int column = 0; column < n; ++column) {
    const TileBits bits{packed.data() + (static_cast<size_t>(row / 32) * chunks + column / 64) * 64 * c.K, c.K, row % 32 / 16, column % 64 / 16};
    const int r = row % 16, k = column % 16;
    const int p = (k & 1) | (r >> 3) << 1 | (k >> 3) << 2 | (k >> 1 & 3) << 3 | (r & 7) << 5;
    uint32_t s = 0;
    for (int b = 0; b < 16; ++b) s = s << 1 | bits((p / c.V * KV + b) % (256 * c.K));
    sum += value(c.name, table, s, p % c.V) * x[column];
  }
  return sum;
}

template <class T> T* upload(const std::vector<T>& from) {
  T* at;
  check(cudaMalloc(&at, from.size() * sizeof(T)), "cudaMalloc");
  check(cudaMemcpy(at, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return at;
}

std::vector<uint32_t> pairs() {
  std::vector<uint32_t> table(512);
  for (int i = 0; i < 512; ++i) {
    __half_raw a(__float2half(gaussian(2 * i))), b(__float2half(gaussian(2 * i + 1)));
    table[i] = a.x | static_cast<uint32_t>(b.x) << 16;
  }
  return table;
}

int check_all(int sm) {
  int bad = 0;
  const auto table = pairs();
  uint32_t* const d_table = upload(table);
  const int shapes[][2] = {{16, 16}, {48, 80}, {4272, 192}, {2112, 4096}, {32, 24576}};
  for (const Case& c : cases) {
    for (const auto& [m, n] : shapes) {
      const int batch = c.batch;
      const int strips = (m + 31) / 32, chunks = (n + 63) / 64;
      std::vector<uint32_t> packed(static_cast<size_t>(strips) * chunks * 64 * c.K);
      for (size_t i = 0; i < packed.size(); ++i) packed[i] = hashed(i);
      std::vector<float> x(static_cast<size_t>(batch) * n), y(static_cast<size_t>(batch) * m);
      for (size_t i = 0; i < x.size(); ++i) x[i] = gaussian(i + 77) * (i == 5 ? 6 : 1);
      uint32_t* const d_packed = upload(packed);
      float* const d_x = upload(x);
      float* const d_y = upload(y);
      unsigned char* const d_parts = upload(std::vector<unsigned char>(static_cast<size_t>(batch) * 4 * 2 * (n + 64)));
      float* const d_units = upload(std::vector<float>(2 * batch));
      c.prepare<<<batch, 1024>>>(d_x, d_parts, d_units, n);
      check(c.launch({d_packed, d_table, d_parts, d_units, d_y, m, n}, sm, nullptr), c.name);
      check(cudaMemcpy(y.data(), d_y, y.size() * 4, cudaMemcpyDeviceToHost), c.name);
      double error = 0, power = 0;
      for (int b = 0; b < batch; ++b) {
        for (int row = 0; row < m; row += std::max(1, m / (n > 1000 ? 6 : 30))) {
          const double expected = reference(c, packed, table, x.data() + static_cast<size_t>(b) * n, n, row);
          error += std::pow(y[static_cast<size_t>(b) * m + row] - expected, 2), power += expected * expected;
        }
      }
      const double relative = std::sqrt(error / power);
      const bool ok = relative < 5e-6;
      bad += !ok;
      std::printf("%-6s %-20s K=%d %5d × %5d × %d  relative error %.1e %s\n", c.name, c.variant, c.K, m, n, batch, relative, ok ? "" : "BAD");
      cudaFree(d_packed), cudaFree(d_x), cudaFree(d_y), cudaFree(d_parts), cudaFree(d_units);
    }
  }
  return bad;
}

void time_all(int sm, const char* only) {
  const auto table = pairs();
  uint32_t* const d_table = upload(table);
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
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  const auto microseconds = [&](int nodes, auto enqueue) {
    cudaGraph_t graph;
    cudaGraphExec_t replay;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < nodes; ++i) enqueue(i);
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(cudaGraphInstantiate(&replay, graph, 0), "graph");
    std::vector<float> times;
    for (int i = 0; i < 12; ++i) {
      cudaEventRecord(begin, stream);
      cudaGraphLaunch(replay, stream);
      cudaEventRecord(end, stream);
      check(cudaEventSynchronize(end), "replay");
      float ms;
      cudaEventElapsedTime(&ms, begin, end);
      if (i > 1) times.push_back(ms * 1000 / nodes);
    }
    std::sort(times.begin(), times.end());
    cudaGraphExecDestroy(replay), cudaGraphDestroy(graph);
    return times[times.size() / 2];
  };
  const float copy = microseconds(1, [&](int) { cudaMemcpyAsync(d_other, d_pool, pool, cudaMemcpyDeviceToDevice, stream); });
  std::printf("{\"copyGBs\": %.0f, \"rows\": [\n", 2e-3 * pool / copy);
  const int shapes[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {14336, 4096}, {4096, 14336}, {8192, 8192}, {28672, 8192}, {8192, 28672}};
  bool more = false;
  for (const Case& c : cases) {
    if (c.batch > 1 || (only && c.name != std::string(only))) continue;
    for (const auto& [m, n] : shapes) {
      c.prepare<<<c.batch, 1024>>>(d_x, d_parts, d_units, n);
      const size_t bytes = static_cast<size_t>(m) * n * c.K / 8;
      const int copies = static_cast<int>(std::max<size_t>(1, pool / bytes)), nodes = std::clamp(copies, 8, 120);
      const float us = microseconds(nodes, [&](int i) {
        check(c.launch({reinterpret_cast<uint32_t*>(d_pool + i % copies * bytes), d_table, d_parts, d_units, d_y, m, n}, sm, stream), c.name);
      });
      std::printf("%s  {\"code\": \"%s\", \"variant\": \"%s\", \"K\": %d, \"m\": %d, \"n\": %d, \"us\": %.2f, \"GBs\": %.0f}",
                  more ? ",\n" : "", c.name, c.variant, c.K, m, n, us, bytes / us * 1e-3);
      more = true;
    }
  }
  std::printf("\n]}\n");
}

// One launch of every variant of a code and rate, for a profiler.
void launch_once(int sm, const char* code, int K, int m, int n) {
  uint32_t* const d_table = upload(pairs());
  const size_t words = static_cast<size_t>((m + 31) / 32) * ((n + 63) / 64) * 64 * K;
  uint32_t* const d_packed = upload(std::vector<uint32_t>(words, 0x9E3779B9));
  float* const d_x = upload(std::vector<float>(n, 1));
  float* const d_y = upload(std::vector<float>(m));
  unsigned char* const d_parts = upload(std::vector<unsigned char>(8 * (n + 64)));
  float* const d_units = upload(std::vector<float>(16));
  for (const Case& c : cases) {
    if (c.name != std::string(code) || c.K != K || c.batch != 1) continue;
    c.prepare<<<1, 1024>>>(d_x, d_parts, d_units, n);
    check(c.launch({d_packed, d_table, d_parts, d_units, d_y, m, n}, sm, nullptr), c.name);
    check(cudaDeviceSynchronize(), c.name);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    cudaDeviceProp card;
    check(cudaGetDeviceProperties(&card, 0), "device");
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "check") return check_all(card.multiProcessorCount);
    if (what == "time") return time_all(card.multiProcessorCount, count > 2 ? arguments[2] : nullptr), 0;
    if (what == "once" && count == 6) {
      launch_once(card.multiProcessorCount, arguments[2], std::atoi(arguments[3]), std::atoi(arguments[4]), std::atoi(arguments[5]));
      return 0;
    }
    std::fprintf(stderr, "usage: product-bench check | time [code]\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
