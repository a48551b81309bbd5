// Checks and times whole linears with packed weights on a GPU, their Hadamard transforms included, without Node:
//
//   cd native/codebooks/trellis && nvcc -std=c++20 -O3 -arch=sm_90 --expt-relaxed-constexpr ../../../bench/linear_cuda.cu \
//     product_hyb_cuda.cu product_bytes_cuda.cu product_halves_cuda.cu -o linear-bench
//   linear-bench check                 two linears, one after the other, against float64
//   linear-bench time [rows]           µs, replays of a CUDA graph over weights and constants of 600 MB each, kernels as in decoding
//
// alone: begin (x into what the product reads), product, finish (its outputs). In a row: product, and what is between it and the next in one
// kernel, which also leaves the finished outputs, as decoding has it. A layer is one of Llama-2-7B as decoding has it, without attention.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/codebooks/trellis/product_launch.cuh"
#include "../native/codebooks/trellis/product_operands.cuh"
#include "../native/codebooks/trellis/runs_enqueue.cuh"
#include "replays.cuh"

using namespace ops::product;

namespace {

// A row of numbers, and the order of what its H has beside S. H's order is the row's.
struct Side {
  int n, factor;
};
struct Linear {
  Side in;
  std::vector<Side> out;
  int m() const {
    int sum = 0;
    for (const Side& o : out) sum += o.n;
    return sum;
  }
};

double over_root(int n) { return 1 / std::sqrt(static_cast<double>(n)); }

// Linears on t rows, with buffers of their own: z of the last product, y of the last finish.
class Bench {
 public:
  const ops::ProductCode code;
  const int K, t;
  bool by_row = true;  // by row_kernel, where that can be
  float *z, *y;

  Bench(ops::ProductCode code, int K, int t, size_t weights, size_t numbers) : code(code), K(K), t(t), weights_(weights), numbers_(numbers) {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "device");
    card_ = {device.multiProcessorCount, static_cast<int>(device.sharedMemPerBlockOptin), true};
    std::vector<uint32_t> random(1 << 20);
    for (size_t i = 0; i < random.size(); ++i) random[i] = hashed(i);
    check(cudaMalloc(&packed_, weights), "cudaMalloc");
    for (size_t at = 0; at < weights; at += 4 << 20) {
      check(cudaMemcpy(packed_ + at, random.data(), std::min<size_t>(4 << 20, weights - at), cudaMemcpyHostToDevice), "fill");
    }
    constants.resize(std::min<size_t>(numbers, 1 << 20));
    for (size_t i = 0; i < constants.size(); ++i) constants[i] = static_cast<float>(gaussian(i + 7));
    check(cudaMalloc(&constants_, numbers * 4), "cudaMalloc");
    for (size_t at = 0; at < numbers; at += constants.size()) {
      check(cudaMemcpy(constants_ + at, constants.data(), std::min(constants.size(), numbers - at) * 4, cudaMemcpyHostToDevice), "fill");
    }
    const size_t most = static_cast<size_t>(t) * 65536;
    for (float** at : {&z, &y, &stream_, &v_}) check(cudaMalloc(at, most * 4), "cudaMalloc"), check(cudaMemset(*at, 0, most * 4), "clear");
    check(cudaMalloc(&digits_, most * 4), "cudaMalloc");
    check(cudaMalloc(&units_, t * (1 + kMostSlots) * 4), "cudaMalloc");
    check(cudaMalloc(&sums_, t * 32 * kMostSums * sizeof(float2)), "cudaMalloc");
    table.resize(1024);
    for (int i = 0; i < 1024; ++i) table[i] = __half_raw(__float2half(static_cast<float>(gaussian(i)))).x;
    entries_ = upload(table);
    check(cudaDeviceSynchronize(), "buffers");
  }
  ~Bench() {
    for (void* at : std::initializer_list<void*>{packed_, constants_, z, y, stream_, v_, digits_, units_, sums_, entries_}) cudaFree(at);
  }

  std::vector<float> constants;  // the first numbers of those on the card
  std::vector<uint16_t> table;
  unsigned char* packed() { return packed_; }

  // f32 [n] that nobody has read for long.
  const float* next(size_t n) {
    if (number_ + n > numbers_) number_ = 0;
    return constants_ + std::exchange(number_, number_ + n);
  }
  // Weights and numbers from the first on again.
  void rewind() { byte_ = number_ = 0; }

  // What comes before a product: of x, f32 [t, n] (norm: with rmsnorm), or of what the last product left, one output or, gated, two.
  void begin(Side in, const float* x, bool norm, cudaStream_t stream) {
    Chain c{};
    c.of[0].x = x;
    enqueue(c, in, 1, norm, false, stream);
  }
  // keep: the sum with the residual stream, as it is left for the next block of the model.
  void between(Side in, int inputs, bool norm, bool keep, cudaStream_t stream) {
    Chain c{};
    const float of_h = static_cast<float>(over_root(in.n));
    for (int i = 0; i < inputs; ++i) c.of[i] = {nullptr, z + i * in.n, next(in.n), nullptr, nullptr, inputs * in.n, nullptr, of_h};
    if (keep) c.of[0].add = stream_, c.of[0].y = y;
    enqueue(c, in, inputs, norm, true, stream);
  }
  void multiply(const Linear& linear, cudaStream_t stream) {
    const size_t bytes = static_cast<size_t>(linear.m()) * linear.in.n * K / 8;
    if (byte_ + bytes > weights_) byte_ = 0;
    const unsigned char* const weights = packed_ + std::exchange(byte_, byte_ + bytes);
    for_code(code, entries_, card_, [&]<class Code>(Args args) {
      args.packed = reinterpret_cast<const uint32_t*>(weights), args.m = linear.m(), args.n = linear.in.n, args.slots = slots_;
      for (int first = 0; first < t; first += args.t) {
        const Choice choice = choose<Code>(K, true, t - first, card_.most_shared);
        args.t = std::min(choice.most, t - first);
        args.x = digits_ + static_cast<size_t>(first) * Code::parts * args.n * (Code::bytes ? 1 : 2), args.units = units_ + first * (1 + slots_);
        args.y = z + static_cast<size_t>(first) * args.m;
        check(choice.launch(args, card_, stream), "product");
      }
    });
  }
  // All outputs of the last product into y, one after the other.
  void finish(const Linear& linear, cudaStream_t stream) {
    Chains chains{};
    Plan plans[4];
    int count = 0;
    size_t first = 0;
    bool rows = by_row;
    for (const Side& o : linear.out) rows = Plan().of_row(o.n, o.n, o.factor, 1, true, false) && rows;
    for (const Side& o : linear.out) {
      Plan& plan = plans[count];
      plan_of(plan, o, 1, true, false, rows);
      const uint4* const mix = plan.row ? nullptr : mix_of(o, plan.cut, plan.share * kCluster, false);
      chains.of[count].of[0] = {nullptr, z + first, next(o.n), nullptr, y + first * t, linear.m(), mix, static_cast<float>(over_root(o.n))};
      adopt(chains.of[count++], plan);
      first += o.n;
    }
    check(enqueue_finish(chains, plans, count, t, stream), "finish");
  }

 private:
  Card card_;
  const size_t weights_, numbers_;
  size_t byte_ = 0, number_ = 0;
  unsigned char *packed_, *digits_;
  float *constants_, *stream_, *v_, *units_;
  float2* sums_;
  uint16_t* entries_;
  int slots_ = 0;

  static void plan_of(Plan& plan, Side s, int inputs, bool finish, bool begin, bool rows) {
    if (rows && plan.of_row(s.n, s.n, s.factor, inputs, finish, begin)) return;
    if (!plan.of(cut_into(s.n, wished_run(s.n, s.n, s.factor)), inputs, finish, begin)) throw std::runtime_error("runs do not fit");
  }
  static const uint4* mix_of(Side s, Cut cut, int share, bool transposed) {
    static std::vector<std::pair<std::vector<int>, uint4*>> known;
    const std::vector<int> key{s.n, s.factor, cut.w, share, transposed};
    for (const auto& [other, at] : known) {
      if (other == key) return at;
    }
    known.emplace_back(key, reinterpret_cast<uint4*>(upload(operands(s.n, s.factor, cut, share, transposed))));
    return known.back().second;
  }
  void enqueue(Chain& c, Side in, int inputs, bool norm, bool finish, cudaStream_t stream) {
    Plan plan;
    plan_of(plan, in, inputs, finish, true, by_row);
    for (int i = 0; i < inputs; ++i) {
      if (finish && !plan.row) c.of[i].mix = mix_of(in, plan.cut, plan.share * kCluster, false);
    }
    c.su = next(in.n), c.weight = norm ? next(in.n) : nullptr, c.v = v_, c.sums = sums_;
    adopt(c, plan);
    const bool bytes = code == ops::ProductCode::mul1;
    c.to = {plan.row ? nullptr : mix_of(in, plan.cut, 16, true), digits_, units_, static_cast<float>(over_root(in.n)),
            bytes ? most_digits<Bytes> : most_digits<Hyb<true>>, 1e-5f, bytes, norm};
    slots_ = plan.slots;
    check(enqueue_chain(c, plan, inputs, t, stream), "between");
    if (!plan.all) check(enqueue_digits(c.to, v_, sums_, plan, t, stream), "digits");
  }
};

// x·H or x·Hᵀ in float64, a row.
std::vector<double> transform(const std::vector<double>& x, Side s, bool inverse) {
  const std::vector<float> m = ops::hadamard_matrix(s.factor);
  const int run = s.n / s.factor;
  std::vector<double> to(s.n);
  for (int r = 0; r < s.factor; ++r) {
    for (int k = 0; k < s.factor; ++k) {
      const double sign = (inverse ? m[r * s.factor + k] : m[k * s.factor + r]) * over_root(s.n);
      for (int i = 0; i < run; ++i) to[r * run + i] += sign * x[k * run + i];
    }
  }
  for (int h = 1; h < run; h *= 2) {
    for (int i = 0; i < s.n; ++i) {
      if (i & h) continue;
      const double a = to[i], b = to[i + h];
      to[i] = a + b, to[i + h] = a - b;
    }
  }
  return to;
}

// One linear, gated or normed, after another: x → begin, product, between, product, finish → y.
int check_all() {
  int bad = 0;
  const std::vector<std::pair<const char*, std::pair<Linear, Linear>>> pairs{
      {"normed", {{{4096, 1}, {{2048, 1}}}, {{2048, 1}, {{256, 1}, {512, 1}}}}},
      {"gated", {{{2048, 1}, {{1536, 12}, {1536, 12}}}, {{1536, 12}, {{512, 1}}}}},
      {"4096", {{{512, 1}, {{4096, 1}}}, {{4096, 1}, {{64, 1}}}}},
      {"8192", {{{1024, 1}, {{8192, 1}}}, {{8192, 1}, {{64, 1}}}}},
  };
  for (const ops::ProductCode code : {ops::ProductCode::hyb, ops::ProductCode::mul1}) {
    for (int K = 2; K <= 4; ++K) {
      for (const auto& [name, both] : pairs) {
        const auto& [one, other] = both;
        const bool gated = one.out.size() == 2;
        const int t = 3;
        Bench bench(code, K, t, 16 << 20, 1 << 20);
        std::vector<int16_t> stored[2];
        size_t at = 0;
        for (int i = 0; i < 2; ++i) {
          const Linear& linear = i == 0 ? one : other;
          const size_t bytes = static_cast<size_t>(linear.m()) * linear.in.n * K / 8;
          stored[i].resize(bytes / 2);
          for (size_t j = 0; j < bytes / 2; ++j) stored[i][j] = static_cast<int16_t>(hashed(j + 1000 * i));
          int16_t* const d_stored = upload(stored[i]);
          arrange_kernel<<<1024, 256>>>(reinterpret_cast<unsigned char*>(d_stored), bench.packed() + at, bytes, linear.m(), linear.in.n, K);
          check(cudaDeviceSynchronize(), "arrange");
          cudaFree(d_stored), at += bytes;
        }
        std::vector<float> x(static_cast<size_t>(t) * one.in.n);
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(gaussian(i + 99));
        float* const d_x = upload(x);
        const auto expected = [&](int b) {
          size_t read = 0;
          const auto vector = [&](size_t n) { return bench.constants.data() + std::exchange(read, read + n); };
          const auto begin = [&](std::vector<double> u, Side in, bool norm) {
            double squares = 0;
            for (double v : u) squares += v * v;
            const float* const su = vector(in.n);
            const float* const weight = norm ? vector(in.n) : nullptr;
            for (int j = 0; j < in.n; ++j) u[j] *= su[j] * (norm ? weight[j] / std::sqrt(squares / in.n + 1e-5) : 1);
            return transform(u, in, false);
          };
          const auto product = [&](const std::vector<double>& u, const Linear& linear, const std::vector<int16_t>& words) {
            std::vector<double> to(linear.m());
            for (int row = 0; row < linear.m(); ++row) {
              const int16_t* tile = words.data() + static_cast<size_t>(row / 16) * (linear.in.n / 16) * 16 * K;
              for (int column = 0; column < linear.in.n; column += 16, tile += 16 * K) {
                for (int j = 0; j < 16; ++j) {
                  const int p = place(row % 16, j, false), V = code == ops::ProductCode::hyb ? 2 : 1;
                  const Weights w = value(code, state_at(tile, p / V * V * K, K), bench.table.data());
                  to[row] += (p % V == 0 ? w.first : w.second) * u[column + j];
                }
              }
            }
            return to;
          };
          const auto finish = [&](const std::vector<double>& all, int first, Side out) {
            std::vector<double> to = transform({all.begin() + first, all.begin() + first + out.n}, out, true);
            const float* const sv = vector(out.n);
            for (int j = 0; j < out.n; ++j) to[j] *= sv[j];
            return to;
          };
          const std::vector<double> middle = product(begin({&x[b * one.in.n], &x[b * one.in.n] + one.in.n}, one.in, false), one, stored[0]);
          std::vector<double> u = finish(middle, 0, one.out[0]);
          if (gated) {
            const std::vector<double> gate = finish(middle, one.out[0].n, one.out[1]);
            for (size_t j = 0; j < u.size(); ++j) u[j] *= gate[j] / (1 + std::exp(-gate[j]));
          }
          const std::vector<double> last = product(begin(u, other.in, !gated), other, stored[1]);
          std::vector<double> to;
          int first = 0;
          for (const Side& o : other.out) {
            for (double v : finish(last, first, o)) to.push_back(v);
            first += o.n;
          }
          return to;
        };
        std::vector<double> wanted;
        for (int b = 0; b < t; ++b) {
          for (double v : expected(b)) wanted.push_back(v);
        }
        for (const bool by_row : {true, false}) {
          Bench& run = bench;
          run.by_row = by_row, run.rewind();
          run.begin(one.in, d_x, false, nullptr), run.multiply(one, nullptr);
          run.between(other.in, gated ? 2 : 1, !gated, false, nullptr), run.multiply(other, nullptr);
          check(cudaMemset(run.y, 0xff, wanted.size() * 4), "poison");
          run.finish(other, nullptr);
          check(cudaDeviceSynchronize(), "run");
          std::vector<float> y(wanted.size());
          check(cudaMemcpy(y.data(), run.y, y.size() * 4, cudaMemcpyDeviceToHost), "copy");
          double error = 0, power = 0;
          for (int b = 0; b < t; ++b) {
            for (int j = 0, first = 0, o = 0; o < static_cast<int>(other.out.size()); first += other.out[o++].n) {
              for (j = 0; j < other.out[o].n; ++j) {
                const double w = wanted[static_cast<size_t>(b) * other.m() + first + j], got = y[static_cast<size_t>(first) * t + b * other.out[o].n + j];
                error += (w - got) * (w - got), power += w * w;
              }
            }
          }
          const bool ok = error / power < 1e-9;  // as product-bench
          bad += !ok;
          std::printf("%s K=%d %-7s %-10s NMSE %.1e %s\n", code == ops::ProductCode::hyb ? "hyb " : "mul1", K, name, by_row ? "by row" : "clusters",
                      error / power, ok ? "" : "BAD");
        }
        cudaFree(d_x);
      }
    }
  }
  std::printf("%d bad\n", bad);
  return bad;
}

void time_all(int t) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  const Side d{4096, 1}, f{11008, 172};
  const Linear square{d, {d}}, qkv{d, {d, d, d}}, up{d, {f, f}}, down{f, {d}}, large{{8192, 1}, {{8192, 1}}};
  const auto alone = [&](const Linear& linear) {
    return [&, linear](Bench& b) { b.begin(linear.in, b.y, false, stream), b.multiply(linear, stream), b.finish(linear, stream); };
  };
  const std::vector<std::pair<const char*, std::function<void(Bench&)>>> chains{
      {"4096 x 4096 alone", alone(square)},
      {"4096 x 4096 in a row", [&](Bench& b) { b.multiply(square, stream), b.between(d, 1, false, true, stream); }},
      {"8192 x 8192 in a row", [&](Bench& b) { b.multiply(large, stream), b.between(large.in, 1, true, true, stream); }},
      {"q, k, v alone", alone(qkv)},
      {"gate, up alone", alone(up)},
      {"down alone", alone(down)},
      {"gate, up, down in a row",
       [&](Bench& b) { b.multiply(up, stream), b.between(f, 2, false, false, stream), b.multiply(down, stream), b.between(d, 1, true, true, stream); }},
      {"a layer in a row",
       [&](Bench& b) {
         b.multiply(qkv, stream), b.finish(qkv, stream), b.begin(d, b.y, false, stream), b.multiply(square, stream);
         b.between(d, 1, true, true, stream), b.multiply(up, stream), b.between(f, 2, false, false, stream), b.multiply(down, stream);
         b.between(d, 1, true, true, stream);
       }},
  };
  std::printf("us on %d row%s, hyb at 2, 3, 4 bits and mul1 at 2, 3, 4 bits; by row_kernel where that can be / clusters\n", t, t == 1 ? "" : "s");
  std::vector<std::vector<float>> us(chains.size());
  for (const ops::ProductCode code : {ops::ProductCode::hyb, ops::ProductCode::mul1}) {
    for (int K = 2; K <= 4; ++K) {
      Bench bench(code, K, t, size_t{600} << 20, size_t{150} << 20);
      for (size_t i = 0; i < chains.size(); ++i) {
        for (const bool by_row : {true, false}) {
          bench.by_row = by_row;
          bench.begin(d, bench.y, false, stream);  // what the first product of a chain reads
          chains[i].second(bench);                 // what is made at first use cannot be in a graph
          us[i].push_back(microseconds(stream, 60, [&](int) { chains[i].second(bench); }));
        }
      }
    }
  }
  for (size_t i = 0; i < chains.size(); ++i) {
    std::printf("%-24s", chains[i].first);
    for (size_t j = 0; j < us[i].size(); j += 2) std::printf("%s %6.2f /%6.2f", j == 6 ? "   |" : " ", us[i][j], us[i][j + 1]);
    std::printf("\n");
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string what = count > 1 ? arguments[1] : "";
    if (what == "check") return check_all();
    if (what == "time") return time_all(count > 2 ? std::atoi(arguments[2]) : 1), 0;
    std::fprintf(stderr, "usage: linear-bench check | time [rows]\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
