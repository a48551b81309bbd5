// Checks and times what is between two products with packed weights on a GPU, without Node:
//
//   nvcc -std=c++20 -O3 -arch=sm_90 --expt-relaxed-constexpr bench/between_cuda.cu -o between-bench
//   between-bench check [n]            against float64, every shape, kind of digits and number of rows
//   between-bench time                 µs, replays of a CUDA graph, constants of each of 600 MB
//
// The two numbers, finish + norm + begin of 8192 numbers: 160 KB from memory, 0.05 µs; 30 instructions a number on 8 multiprocessors, 0.15 µs.
// So it is latency: of two loads, two exchanges, and the wait for the kernel before, about 2.5 µs; and, where a few warps have all of the row, their
// instructions: 4096 numbers with both transforms were 1500 a warp, two warps to a scheduler, 1.5 µs.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/codebooks/trellis/runs_enqueue.cuh"
#include "replays.cuh"

using namespace ops::product;

namespace {

std::vector<float> numbers(size_t count, uint64_t seed) {
  std::vector<float> to(count);
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(gaussian(i + (seed << 32)));
  return to;
}
template <class T> std::vector<T> download(const T* from, size_t count) {
  std::vector<T> to(count);
  check(cudaMemcpy(to.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost), "copy");
  return to;
}

struct Size {
  int n, block, factor;
};
const Size sizes[] = {{4096, 4096, 1},   {8192, 8192, 1},   {16384, 16384, 1}, {2048, 2048, 1},   {1024, 1024, 1},    {512, 512, 1},
                      {64, 64, 1},       {11008, 11008, 172}, {28672, 28672, 28}, {14336, 14336, 28}, {5120, 5120, 20},   {13824, 13824, 108},
                      {12288, 12288, 12}, {3072, 3072, 12}, {2560, 2560, 20},  {3584, 3584, 28},  {17408, 1024, 1},   {18944, 512, 1},
                      {9728, 512, 1},    {6144, 6144, 12},  {25600, 1024, 1},  {53248, 53248, 52}, {12288, 4096, 1},  {7936, 7936, 124}};

// x·H or x·Hᵀ of a row.
void transform(std::vector<double>& x, const Size& s, bool inverse) {
  const std::vector<float> m = ops::hadamard_matrix(s.factor);
  const int run = s.block / s.factor;
  for (int first = 0; first < s.n; first += s.block) {
    std::vector<double> to(s.block);
    for (int r = 0; r < s.factor; ++r) {
      for (int k = 0; k < s.factor; ++k) {
        const double sign = inverse ? m[r * s.factor + k] : m[k * s.factor + r];
        for (int i = 0; i < run; ++i) to[r * run + i] += sign * x[first + k * run + i];
      }
      for (int h = 1; h < run; h *= 2) {
        for (int i = 0; i < run; ++i) {
          if (i & h) continue;
          const double a = to[r * run + i], b = to[r * run + i + h];
          to[r * run + i] = a + b, to[r * run + i + h] = a - b;
        }
      }
    }
    for (int i = 0; i < s.block; ++i) x[first + i] = to[i] / std::sqrt(static_cast<double>(s.block));
  }
}

double nmse(const std::vector<double>& expected, const std::vector<double>& got) {
  double error = 0, power = 0;
  for (size_t i = 0; i < expected.size(); ++i) error += std::pow(expected[i] - got[i], 2), power += expected[i] * expected[i];
  return error / power;
}

const uint4* mix_of(const Size& s, const Plan& p, int share, bool transposed) {
  return reinterpret_cast<const uint4*>(upload(operands(s.block, s.factor, p.cut, share, transposed)));
}

struct Format {
  const char* name;
  bool bytes;
};
const Format formats[] = {{"f16", false}, {"bytes", true}};

enum class Form { row, cluster, two };  // by row_kernel; one cluster where that can be; always two kernels

bool plan_of(Plan& plan, const Size& s, Form form, int inputs, bool finish, bool begin) {
  if (form == Form::row) return plan.of_row(s.n, s.block, s.factor, inputs, finish, begin);
  return plan.of(cut_into(s.n, wished_run(s.n, s.block, s.factor)), inputs, finish, begin, form == Form::cluster);
}

// One kind of chain at one size, on t rows; gives the worst NMSE of all it leaves.
double check_one(const Size& s, Form form, const Format& f, int inputs, bool finish, bool begin, bool norm, int t) {
  Plan plan;
  if (!plan_of(plan, s, form, inputs, finish, begin)) return -1;
  const int n = s.n, stride = 2 * n + 32;
  const auto x = numbers(static_cast<size_t>(t) * stride, 1), sv = numbers(2 * n, 2), add = numbers(static_cast<size_t>(t) * n, 3), su = numbers(n, 4),
             weight = numbers(n, 5);
  std::vector<float> poison(static_cast<size_t>(t) * n, NAN);
  float *const d_x = upload(x), *const d_sv = upload(sv), *const d_add = upload(add), *const d_su = upload(su), *const d_weight = upload(weight);
  float *const d_y = upload(poison), *const d_v = upload(poison);
  float* const d_packed = upload(std::vector<float>(x));  // finished x and gate, rows of n
  std::vector<float> rows(static_cast<size_t>(t) * n * 2);
  for (int i = 0; i < 2; ++i) {
    for (int b = 0; b < t; ++b) memcpy(&rows[(static_cast<size_t>(i) * t + b) * n], &x[static_cast<size_t>(b) * stride + i * n], n * 4);
  }
  cudaFree(d_packed);
  float* const d_rows = upload(rows);
  unsigned char* const d_parts = upload(std::vector<unsigned char>(static_cast<size_t>(t) * n * 4, 0xff));
  float* const d_units = upload(std::vector<float>(t * (1 + kMostSlots), NAN));
  float2* const d_sums = upload(std::vector<float2>(static_cast<size_t>(t) * 32 * kMostSums, float2{NAN, NAN}));
  Chains chains{};
  Chain& c = chains.of[0];
  const uint4* const mix = mix_of(s, plan, plan.share * kCluster, false);
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.block)));
  for (int i = 0; i < inputs; ++i) {
    Source& source = c.of[i];
    if (finish) source = {nullptr, d_x + i * n, d_sv + i * n, i == 0 ? d_add : nullptr, i == 0 ? d_y : nullptr, stride, mix, scale};
    else source.x = d_rows + static_cast<size_t>(i) * t * n;
  }
  const uint4* const next = mix_of(s, plan, 16, true);
  c.su = begin ? d_su : nullptr, c.weight = norm ? d_weight : nullptr, c.v = d_v, c.sums = d_sums;
  adopt(c, plan);
  c.to = {next, d_parts, d_units, scale, f.bytes ? 127.0f * 65536.0f : 32768.0f, 1e-5f, f.bytes, norm};
  check(begin ? enqueue_chain(c, plan, inputs, t, nullptr) : enqueue_finish(chains, &plan, 1, t, nullptr), "chain");
  if (begin && !plan.all) check(enqueue_digits(c.to, d_v, d_sums, plan, t, nullptr), "digits");
  check(cudaDeviceSynchronize(), "run");
  const auto y = download(d_y, static_cast<size_t>(t) * n);
  const auto parts = download(d_parts, static_cast<size_t>(t) * n * 4);
  const auto units = download(d_units, t * (1 + kMostSlots));
  double worst = 0;
  for (int b = 0; b < t; ++b) {
    std::vector<std::vector<double>> u;
    for (int i = 0; i < inputs; ++i) {
      const float* const from = &x[static_cast<size_t>(b) * stride + i * n];
      std::vector<double> row(from, from + n);
      if (finish) {
        transform(row, s, true);
        for (int j = 0; j < n; ++j) row[j] = row[j] * sv[i * n + j] + (i == 0 ? add[static_cast<size_t>(b) * n + j] : 0);
      }
      u.push_back(row);
    }
    if (finish) worst = std::max(worst, nmse(u[0], {y.begin() + static_cast<size_t>(b) * n, y.begin() + static_cast<size_t>(b + 1) * n}));
    if (!begin) continue;
    double squares = 0;
    for (double v : u[0]) squares += v * v;
    const double factor = norm ? 1 / std::sqrt(squares / n + 1e-5) : 1;
    std::vector<double> made(n), got(n);
    for (int j = 0; j < n; ++j) {
      made[j] = u[0][j] * factor * (norm ? weight[j] : 1) * su[j] * (inputs == 2 ? u[1][j] / (1 + std::exp(-u[1][j])) : 1);
    }
    transform(made, s, false);
    const int slots = plan.slots;
    const float* const unit = &units[b * (1 + slots)];
    double sum = 0, slot_sum = 0;
    for (int j = 0; j < n; ++j) {
      if (f.bytes) {
        const auto* const p = reinterpret_cast<const signed char*>(&parts[static_cast<size_t>(b) * n * 3]);
        const int digits = p[j] * 65536 + p[n + j] * 256 + p[2 * n + j];
        got[j] = digits * static_cast<double>(unit[0]), sum += digits;
      } else {
        const auto* const p = reinterpret_cast<const __half*>(&parts[static_cast<size_t>(b) * n * 4]);
        got[j] = (static_cast<double>(__half2float(p[j])) + __half2float(p[n + j])) * unit[0];
      }
    }
    worst = std::max(worst, nmse(made, got));
    if (f.bytes) {
      for (int i = 0; i < slots; ++i) slot_sum += unit[1 + i];
      const bool same = std::abs(slot_sum - sum) < 1e-5 * 8388608 * std::sqrt(n);
      if (!same) worst = std::max(worst, 1.0), std::printf("sum of digits %.0f, not %.0f\n", slot_sum, sum);
    }
  }
  for (void* at : {static_cast<void*>(d_x), static_cast<void*>(d_sv), static_cast<void*>(d_add), static_cast<void*>(d_su), static_cast<void*>(d_weight),
                   static_cast<void*>(d_y), static_cast<void*>(d_v), static_cast<void*>(d_rows), static_cast<void*>(d_parts), static_cast<void*>(d_units),
                   static_cast<void*>(d_sums), static_cast<void*>(const_cast<uint4*>(mix)), static_cast<void*>(const_cast<uint4*>(next))}) {
    cudaFree(at);
  }
  return worst;
}

int check_all(int only) {
  int bad = 0;
  for (const Size& s : sizes) {
    if (only && s.n != only) continue;
    std::printf("%6d = %3d runs of %4d:", s.n, s.n / wished_run(s.n, s.block, s.factor), wished_run(s.n, s.block, s.factor));
    const auto note = [&](const char* what, double error) {
      const bool ok = error >= 0 && error < 2e-15 * s.n + 2e-13;  // 24 bits of the norm for each number
      if (error >= 0) bad += !ok;
      std::printf(error < 0 ? "  %s none" : ok ? "  %s %.0e" : "  %s %.1e BAD", what, error);
    };
    for (const Form form : {Form::row, Form::cluster}) {
      const auto worst = [&](int inputs, bool norm) {
        double of_both = -1;
        for (const Format& f : formats) of_both = std::max(of_both, check_one(s, form, f, inputs, true, true, norm, 1));
        return of_both;
      };
      std::printf(form == Form::row ? "\n        by row:   " : "\n        clusters: ");
      note("finish, norm, begin", worst(1, true)), note("3 rows", check_one(s, form, formats[0], 1, true, true, false, 3));
      note("gated", worst(2, false)), note("9 rows", check_one(s, form, formats[1], 2, true, true, false, 9));
      note("finished, norm", check_one(s, form, formats[0], 1, false, true, true, 2));
      note("finished, gated", check_one(s, form, formats[1], 2, false, true, false, 1));
      note("finish", check_one(s, form, formats[0], 1, true, false, false, 2));
    }
    std::printf("\n");
  }
  std::printf("%d bad\n", bad);
  return bad;
}

// µs of one kind; the constants of each node are elsewhere.
float time_one(cudaStream_t stream, const Size& s, Form form, int inputs, bool finish, bool begin, int t, float* pool, size_t size) {
  Plan plan;
  if (!plan_of(plan, s, form, inputs, finish, begin)) return NAN;
  static float* const d_x = upload(numbers(1 << 20, 1));
  static float* const d_y = upload(numbers(1 << 20, 1));
  static float* const d_v = upload(numbers(1 << 20, 1));
  static unsigned char* const d_parts = upload(std::vector<unsigned char>(4 << 20));
  static float* const d_units = upload(numbers(4096, 1));
  static float2* const d_sums = upload(std::vector<float2>(16 * 32 * kMostSums));
  const uint4* const mix = mix_of(s, plan, plan.share * kCluster, false);
  const uint4* const next = mix_of(s, plan, 16, true);
  const int nodes = 200;
  return microseconds(stream, nodes, [&](int i) {
    Chains chains{};
    Chain& c = chains.of[0];
    float* const at = pool + static_cast<size_t>(i) * (size / nodes / 4 / 64 * 64);
    for (int k = 0; k < inputs; ++k) {
      const bool stream_of_model = inputs == 1;
      if (finish) c.of[k] = {nullptr, d_x + k * s.n, at + k * s.n, stream_of_model ? d_x : nullptr, stream_of_model ? d_y : nullptr, inputs * s.n, mix, 0.01f};
      else c.of[k].x = d_x + k * s.n;
    }
    c.su = at + 2 * s.n, c.weight = begin && inputs == 1 ? at + 3 * s.n : nullptr, c.v = d_v, c.sums = d_sums;
    adopt(c, plan);
    c.to = {next, d_parts, d_units, 0.01f, 32768.0f, 1e-5f, false, inputs == 1};
    check(begin ? enqueue_chain(c, plan, inputs, t, stream) : enqueue_finish(chains, &plan, 1, t, stream), "chain");
    if (begin && !plan.all) check(enqueue_digits(c.to, d_v, d_sums, plan, t, stream), "digits");
  });
}

void time_all() {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  const size_t size = size_t{600} << 20;
  float* pool;
  check(cudaMalloc(&pool, size), "cudaMalloc");
  check(cudaMemset(pool, 0x3c, size), "fill");
  std::printf("us, by row / one cluster / two kernels: finish + norm + begin, gated, begin alone, finish alone; 8 rows: the first, gated\n");
  for (const Size& s : sizes) {
    std::printf("%6d", s.n);
    struct Kind {
      int inputs;
      bool finish, begin;
      int t;
    };
    const Kind kinds[] = {{1, true, true, 1}, {2, true, true, 1}, {1, false, true, 1}, {1, true, false, 1}, {1, true, true, 8}, {2, true, true, 8}};
    for (const Kind& k : kinds) {
      std::printf(" ");
      for (const Form form : {Form::row, Form::cluster, Form::two}) {
        const float us = time_one(stream, s, form, k.inputs, k.finish, k.begin, k.t, pool, size);
        std::printf(std::isnan(us) ? "%s    -" : "%s %4.1f", form == Form::row ? "" : " /", us);
      }
    }
    std::printf("\n");
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "check") return check_all(count > 2 ? std::atoi(arguments[2]) : 0);
    if (what == "time") return time_all(), 0;
    std::fprintf(stderr, "usage: between-bench check [n] | time\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
