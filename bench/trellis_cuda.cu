// Checks and times the trellis search on a GPU, without Node:
//
//   nvcc -std=c++20 -O3 -arch=sm_90 --fmad=false --extended-lambda --expt-relaxed-constexpr bench/trellis_cuda.cu \
//     native/codebooks/trellis/trellis_{encode,generic,hashed,scalar}_cuda.cu -o trellis-bench
//
//   trellis-bench check [sequences]    every kernel against the generic one, on the same Gaussian sequences
//   trellis-bench time [sequences]     Mweights/s, median of CUDA events, all kernels; 256 sequences as well (one column block of LDLQ)
//   trellis-bench rates                instructions a clock and multiprocessor that the searches are made of
//
// HYB's table: k-means on Gaussian pairs, made here from a fixed seed (the project's own table differs in the last digits).
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/codebooks/trellis/trellis_cuda.h"

namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

struct Random {  // splitmix64, Box-Muller
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9, z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
  }
  double uniform() { return ((next() >> 11) + 0.5) / 9007199254740992.0; }
  double gaussian() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); }
};

float rounded(double x) { return __half2float(__double2half(x)); }
float half_bits(unsigned bits) { __half_raw h; h.x = static_cast<unsigned short>(bits); return __half2float(__half(h)); }
int bytes_of(uint32_t x) { return (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24); }

std::vector<float> hyb_pairs(int count) {
  Random random{12};
  constexpr int samples = 1 << 16;
  std::vector<float> data(2 * samples), centre(2 * count);
  for (auto& d : data) d = random.gaussian();
  for (auto& c : centre) c = random.gaussian();
  for (int round = 0; round < 15; round++) {
    std::vector<double> sum(3 * count);
    for (int i = 0; i < samples; i++) {
      float best = 1e9f;
      int where = 0;
      for (int c = 0; c < count; c++) {
        const float a = data[2 * i] - centre[2 * c], b = data[2 * i + 1] - centre[2 * c + 1], e = a * a + b * b;
        if (e < best) best = e, where = c;
      }
      sum[3 * where] += data[2 * i], sum[3 * where + 1] += data[2 * i + 1], sum[3 * where + 2]++;
    }
    for (int c = 0; c < count; c++)
      if (sum[3 * c + 2] > 0) centre[2 * c] = sum[3 * c] / sum[3 * c + 2], centre[2 * c + 1] = sum[3 * c + 1] / sum[3 * c + 2];
  }
  double square = 0;
  for (float c : centre) square += double(c) * c;
  const double scale = std::sqrt(15.0 / 16 / (square / centre.size()));
  for (auto& c : centre) c = rounded(c * scale);
  return centre;
}

struct Code { std::string name; int V; bool hashed; std::function<std::vector<float>(int L)> table; };

std::vector<float> computed(int L, float (*value)(uint32_t)) {
  std::vector<float> table(size_t{1} << L);
  for (uint32_t s = 0; s < table.size(); s++) table[s] = value(s);
  return table;
}
float masked(uint32_t x) {
  const uint32_t r = (x & 0x8FFF8FFF) ^ 0x3B603B60;
  return rounded(double(half_bits(r >> 16)) + half_bits(r & 0xFFFF));
}

std::vector<Code> codes() {
  return {
      {"hyb", 2, true, [](int L) {
         static const auto pairs = hyb_pairs(512);
         std::vector<float> table(size_t{2} << L);
         for (uint32_t s = 0; s < table.size() / 2; s++) {
           const uint32_t u = s * (s + 1), i = u >> 6 & 511;
           table[2 * s] = u >> 15 & 1 ? -pairs[2 * i] : pairs[2 * i], table[2 * s + 1] = pairs[2 * i + 1];
         }
         return table;
       }},
      {"mul1", 1, false, [](int L) {
         return computed(L, [](uint32_t s) { return rounded((1024 + bytes_of(s * 0x83DCD12Du)) * double(half_bits(0x1EEE)) + half_bits(0xC931)); });
       }},
      {"1mad", 1, false, [](int L) {
         return computed(L, [](uint32_t s) { return rounded((bytes_of(s * 34038481u + 76625530u) - 510) / 147.800537109375); });
       }},
      {"3inst", 1, false, [](int L) { return computed(L, [](uint32_t s) { return masked(s * 89226354u + 64248484u); }); }},
      {"mcg", 1, false, [](int L) { return computed(L, [](uint32_t s) { return masked(s * 0xCBAC1FEDu); }); }},
      {"lut", 1, false, [](int L) {
         Random random{7};
         std::vector<float> table(size_t{1} << L);
         for (auto& v : table) v = rounded(random.gaussian());
         return table;
       }},
  };
}

template <class T> struct Buffer {
  T* at = nullptr;
  size_t size;
  explicit Buffer(size_t size) : size(size) { check(cudaMalloc(&at, size * sizeof(T)), "cudaMalloc"); }
  explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) { check(cudaMemcpy(at, from.data(), size * sizeof(T), cudaMemcpyHostToDevice), "copy"); }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(at); }
  std::vector<T> read() const {
    std::vector<T> to(size);
    check(cudaMemcpy(to.data(), at, size * sizeof(T), cudaMemcpyDeviceToHost), "read");
    return to;
  }
};

// One code at one rate, with inputs on the device: source scale as best at the rate.
struct Case {
  int L, K, V, T;
  int64_t sequences;
  std::vector<float> table, z;
  double sigma;
  Buffer<float> device_table, device_z, values;
  Buffer<uint16_t> states;
  Buffer<unsigned char>* workspace = nullptr;
  ops::TrellisEncodeCuda args{};

  static std::vector<float> gaussian(int64_t n, double sigma) {
    Random random{99};
    std::vector<float> z(n);
    for (auto& v : z) v = random.gaussian() * sigma;
    return z;
  }
  static double rms(const std::vector<float>& table) {
    double sum = 0;
    for (float v : table) sum += double(v) * v;
    return std::sqrt(sum / table.size());
  }

  Case(const Code& code, int L, int K, int64_t sequences, ops::TrellisKernel kernel, int T = 256)
      : L(L), K(K), V(code.V), T(T), sequences(sequences), table(code.table(L)),
        sigma(rms(table) * (K == 1 ? 1.15 : K == 2 ? 1.0 : K == 3 ? 0.95 : 0.9)), device_table(table), device_z((z = gaussian(sequences * T, sigma))),
        values(sequences * T), states(sequences * T / code.V) {
    args.z = device_z.at, args.table = device_table.at, args.codes = states.at, args.values = values.at;
    args.Tx = 16, args.Ty = T / 16, args.m = sequences * 16, args.L = L, args.KV = K * code.V, args.V = code.V;
    args.hashed = code.hashed && L == 16, args.kernel = kernel;
    for (float v : table) args.limit = std::max(args.limit, std::fabs(v));
    args.workspace_bytes = ops::trellis_encode_workspace(args);
    workspace = new Buffer<unsigned char>(args.workspace_bytes);
    args.workspace = workspace->at;
  }
  ~Case() { delete workspace; }

  void poison() {
    check(cudaMemset(states.at, 0xA5, states.size * 2), "poison");
    check(cudaMemset(values.at, 0xFF, values.size * 4), "poison");
    check(cudaMemset(workspace->at, 0xFF, workspace->size), "poison");
  }
  void encode() { ops::trellis_encode_cuda(args); }

  // Squared error of each sequence; empty where a path or a value is wrong.
  std::vector<double> errors() {
    check(cudaDeviceSynchronize(), "encode");
    const auto s = states.read();
    const auto v = values.read();
    const int N = T / V, KV = K * V, mask = (1 << L) - 1;
    std::vector<double> e(sequences);
    for (int64_t q = 0; q < sequences; q++) {
      for (int t = 0; t < N; t++) {
        const int now = s[q * N + t], next = s[q * N + (t + 1) % N];
        if (now > mask || next >> KV != (now & (mask >> KV)))
          return std::printf("  sequence %ld step %d: %d -> %d is no path\n", (long)q, t, now, next), std::vector<double>{};
        for (int i = 0; i < V; i++) {
          const float value = v[(q * N + t) * V + i];
          if (value != table[size_t(now) * V + i])
            return std::printf("  sequence %ld step %d: value differs from the table\n", (long)q, t), std::vector<double>{};
          const double d = double(value) - z[(q * N + t) * V + i];
          e[q] += d * d;
        }
      }
    }
    return e;
  }
};

double total(const std::vector<double>& e) {
  double sum = 0;
  for (double x : e) sum += x;
  return sum;
}

bool compare(const Code& code, int L, int K, int64_t sequences, ops::TrellisKernel kernel, int T = 256) {
  Case exact(code, L, K, sequences, ops::TrellisKernel::generic, T), fast(code, L, K, sequences, kernel, T);
  exact.poison(), exact.encode();
  const auto want = exact.errors();
  fast.poison(), fast.encode();
  const auto got = fast.errors();
  const auto first = fast.states.read();
  fast.poison(), fast.encode();
  check(cudaDeviceSynchronize(), "encode");
  const bool again = first == fast.states.read();
  if (want.empty() || got.empty()) return std::printf("%-6s L=%d K=%d FAIL\n", code.name.c_str(), L, K), false;
  const double norm = sequences * T * exact.sigma * exact.sigma, ratio = total(got) / total(want);
  double worst = 0;
  int64_t same = 0;
  const auto s = exact.states.read();
  const int N = T / code.V;
  for (int64_t q = 0; q < sequences; q++) {
    worst = std::max(worst, got[q] / want[q]);
    same += std::equal(s.begin() + q * N, s.begin() + (q + 1) * N, first.begin() + q * N);
  }
  const bool good = again && ratio < 1.002;
  std::printf("%-6s L=%-2d K=%d T=%d  MSE exact %.6f  fast %.6f  ratio %.6f  worst sequence %.4f  same path %ld/%ld  repeat %s  %s\n",
              code.name.c_str(), L, K, T, total(want) / norm, total(got) / norm, ratio, worst, (long)same, (long)sequences,
              again ? "equal" : "DIFFERS", good ? "ok" : "FAIL");
  return good;
}

double milliseconds(Case& c, int repeats) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event"), check(cudaEventCreate(&end), "event");
  c.encode(), c.encode();
  std::vector<float> times(repeats);
  for (auto& t : times) {
    check(cudaEventRecord(begin, nullptr), "event");
    c.encode();
    check(cudaEventRecord(end, nullptr), "event");
    check(cudaEventSynchronize(end), "encode");
    check(cudaEventElapsedTime(&t, begin, end), "event");
  }
  std::sort(times.begin(), times.end());
  return times[repeats / 2];
}

// ── instruction rates ───────────────────────────────────────────────────────────────────────────────────────────
enum Kind { viaddmnmx, vimnmx3, vimnmx, hadd2, hfma2, hmnmx2, iadd, imad, lds, hfma2_vimnmx3, lds_viaddmnmx, kinds };
const char* const kind_names[] = {"VIADDMNMX.u16x2", "VIMNMX3.u16x2", "VIMNMX.u16x2", "HADD2", "HFMA2", "HMNMX2", "IADD", "IMAD", "LDS.32",
                                  "2 HADD2 + 2 HFMA2 + VIMNMX3", "LDS.32 + VIADDMNMX"};
const int instructions[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 2};

template <int kind> __global__ void rate(unsigned* out, long long* clocks, unsigned seed) {
  __shared__ unsigned memory[2048];
  for (int i = threadIdx.x; i < 2048; i += blockDim.x) memory[i] = i * seed;
  __syncthreads();
  unsigned r[8], a = seed * threadIdx.x, b = seed ^ threadIdx.x;
  for (int i = 0; i < 8; i++) r[i] = seed + i;
  const auto h = [](unsigned x) { return *reinterpret_cast<__half2*>(&x); };
  const auto u = [](__half2 x) { return *reinterpret_cast<unsigned*>(&x); };
  const long long begin = clock64();
  for (int n = 0; n < 64; n++) {
#pragma unroll
    for (int i = 0; i < 32; i++) {
      unsigned& x = r[i & 7];
      if constexpr (kind == viaddmnmx) x = __viaddmin_u16x2(x, a, b);
      if constexpr (kind == vimnmx3) x = __vimin3_u16x2(x, a, r[i + 1 & 7]);
      if constexpr (kind == vimnmx) x = __vminu2(x, r[i + 1 & 7]);
      if constexpr (kind == hadd2) x = u(__hadd2(h(x), h(a)));
      if constexpr (kind == hfma2) x = u(__hfma2(h(x), h(a), h(b)));
      if constexpr (kind == hmnmx2) x = u(__hmin2(h(x), h(r[i + 1 & 7])));
      if constexpr (kind == iadd) asm volatile("add.u32 %0, %0, %1;" : "+r"(x) : "r"(a));
      if constexpr (kind == imad) x = x * a + b;
      if constexpr (kind == lds) x ^= *reinterpret_cast<volatile unsigned*>(&memory[(threadIdx.x & 31) + 32 * i]);
      if constexpr (kind == hfma2_vimnmx3) {
        const __half2 d = __hadd2(__low2half2(h(a)), h(r[i + 1 & 7])), e = __hadd2(__high2half2(h(a)), h(r[i + 2 & 7]));
        x = __vimin3_u16x2(x, u(__hfma2(d, d, h(b))), u(__hfma2(e, e, h(b))));
      }
      if constexpr (kind == lds_viaddmnmx) x = __viaddmin_u16x2(*reinterpret_cast<volatile unsigned*>(&memory[(threadIdx.x & 31) + 32 * i]), a, x);
    }
  }
  const long long end = clock64();
  unsigned sum = 0;
  for (int i = 0; i < 8; i++) sum += r[i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  if (threadIdx.x == 0) clocks[blockIdx.x] = end - begin;
}

template <int kind = 0> void rates() {
  if constexpr (kind < kinds) {
    Buffer<unsigned> out(1024 * 132);
    Buffer<long long> clocks(132);
    for (int i = 0; i < 3; i++) rate<kind><<<132, 1024>>>(out.at, clocks.at, 12345 + i);
    check(cudaDeviceSynchronize(), "rates");
    auto c = clocks.read();
    std::sort(c.begin(), c.end());
    std::printf("%-28s %6.1f lanes a clock and SM\n", kind_names[kind], 64.0 * 32 * instructions[kind] * 1024 / c[66]);
    rates<kind + 1>();
  }
}

}  // namespace

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "time";
  const int64_t given = count > 2 ? std::atoll(words[2]) : 0;
  cudaDeviceProp device;
  int driver = 0, runtime = 0;
  check(cudaGetDeviceProperties(&device, 0), "device"), cudaDriverGetVersion(&driver), cudaRuntimeGetVersion(&runtime);
  std::printf("%s, %d SMs, driver API %d, runtime %d\n", device.name, device.multiProcessorCount, driver, runtime);
  const auto all = codes();
  using ops::TrellisKernel;
  if (mode == "rates") return rates(), 0;
  if (mode == "check") {
    const int64_t n = given ? given : 1025;
    bool good = true;
    for (const auto& code : all)
      for (int K = 2; K <= 4; K++) {
        const int64_t count = code.hashed || K == 2 ? n : std::min<int64_t>(n, 257);
        good &= compare(code, 16, K, count, code.V == 2 ? TrellisKernel::hashed : TrellisKernel::scalar);
      }
    for (const int T : {64, 144}) good &= compare(all[0], 16, 2, 3, TrellisKernel::automatic, T) & compare(all[1], 16, 2, 3, TrellisKernel::automatic, T);
    for (const int L : {8, 11, 12}) good &= compare(all[0], L, 2, 5, TrellisKernel::automatic) & compare(all[5], L, 1, 5, TrellisKernel::automatic);
    for (const int K : {1, 5, 8}) good &= compare(all[5], 14, K, 3, TrellisKernel::automatic);
    std::printf(good ? "all good\n" : "SOMETHING FAILED\n");
    return good ? 0 : 1;
  }
  std::printf("%-6s %s %9s  %10s %10s  %s\n", "code", "K", "sequences", "ms", "Mweights/s", "workspace");
  for (const auto& code : all) {
    for (int K = 2; K <= 4; K++) {
      for (const int64_t n : {int64_t{256}, given ? given : code.V == 2 ? int64_t{8448} : int64_t{4224}}) {
        Case c(code, 16, K, n, code.V == 2 ? TrellisKernel::hashed : TrellisKernel::scalar);
        const double ms = milliseconds(c, 9);
        std::printf("%-6s %d %9ld  %10.3f %10.2f  %.0f MB\n", code.name.c_str(), K, (long)n, ms, n * 256 / ms / 1000, c.args.workspace_bytes / 1e6);
      }
    }
  }
  Case c(all[0], 16, 2, 512, TrellisKernel::generic);
  std::printf("generic hyb 2: %.2f Mweights/s\n", 512 * 256 / milliseconds(c, 3) / 1000);
  return 0;
}
