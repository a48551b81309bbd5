// Checks and times attention of a decode step on a GPU, without Node:
//
//   nvcc -std=c++20 -O3 -arch=sm_90 --extended-lambda --expt-relaxed-constexpr bench/attend_cuda.cu -o attend-bench
//   attend-bench check [few] | time [few]
//
// check: against float64, alone and in a CUDA graph, twice the same bits, every element written. time: µs that attention adds to a
// layer: replays of a graph of layers (something that makes q, k and v, then attention) without and with it; keys and values of
// all layers together are more than the level-2 cache holds. "behind 6 µs": what makes q, k, v takes 6 µs, as a product's transforms do.
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>

#include "../native/ops/attend-cache/attend_cache_cuda.cu"

namespace ops {

cudaStream_t bench_stream;
std::multimap<size_t, void*> bench_idle;
std::map<void*, size_t> bench_taken;

void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}
cudaStream_t stream() { return bench_stream; }
bool card_overlaps() { return true; }
void* borrow(size_t bytes) {
  const auto found = bench_idle.lower_bound(bytes);
  void* data = nullptr;
  if (found != bench_idle.end()) {
    data = found->second, bench_idle.erase(found);
  } else {
    check(cudaMalloc(&data, bytes)), bench_taken[data] = bytes;
  }
  return data;
}
void give_back(void* data) { bench_idle.emplace(bench_taken.at(data), data); }
const float* constant(const std::string& name, const std::function<std::vector<float>()>& make) {
  static std::map<std::string, float*> made;
  float*& data = made[name];
  if (data) return data;
  const std::vector<float> values = make();
  check(cudaMalloc(&data, values.size() * sizeof(float)));
  check(cudaMemcpy(data, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
  return data;
}

}  // namespace ops

namespace {

using ops::check;

double uniform(uint64_t i) {
  uint64_t z = (i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9, z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return (((z ^ z >> 31) >> 11) + 0.5) / 9007199254740992.0;
}
float gaussian(uint64_t i) { return static_cast<float>(std::sqrt(-2 * std::log(uniform(2 * i))) * std::cos(2 * M_PI * uniform(2 * i + 1))); }
uint16_t bf16_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float of_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <class T>
struct Buffer {
  T* at = nullptr;
  size_t size;
  explicit Buffer(size_t size) : size(size) { check(cudaMalloc(&at, size * sizeof(T))); }
  explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) { check(cudaMemcpy(at, from.data(), size * sizeof(T), cudaMemcpyHostToDevice)); }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(at); }
  std::vector<T> read() const {
    std::vector<T> to(size);
    check(cudaMemcpy(to.data(), at, size * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
  }
};

std::vector<float> random(size_t n, uint64_t seed) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = gaussian(seed << 40 | i);
  return x;
}

struct Case {
  std::vector<int> slots, positions;
  int64_t count, capacity, heads, kv_heads, e, window;
  bool bf16;
};

// The worst of what outputs and kept rows differ by from float64, as normalized squares.
double error_of(const Case& one, bool in_graph) {
  const int64_t t = one.slots.size(), across = one.kv_heads * one.e, half = one.e / 2, cached = one.count * one.capacity * across;
  const std::vector<float> q = random(t * one.heads * one.e, 1), k = random(t * across, 2), v = random(t * across, 3);
  std::vector<float> cos(one.capacity * half), sin(cos.size());
  for (size_t i = 0; i < cos.size(); ++i) cos[i] = static_cast<float>(std::cos(7.0 * uniform(i))), sin[i] = static_cast<float>(std::sin(7.0 * uniform(i)));
  std::vector<float> keys = random(cached, 4), values = random(cached, 5);
  std::vector<uint16_t> keys16(cached), values16(cached);
  const auto in_cache = [&](float x) { return one.bf16 ? of_bf16(bf16_of(x)) : x; };
  const auto is_valid = [&](int64_t i) { return one.slots[i] >= 0 && one.slots[i] < one.count && one.positions[i] >= 0 && one.positions[i] < one.capacity; };
  for (int64_t s = 0; s < one.count; ++s) {  // what is above must not be read
    int end = 0;
    for (int64_t i = 0; i < t; ++i) if (one.slots[i] == s && is_valid(i)) end = std::max(end, one.positions[i] + 1);
    for (int64_t at = (s * one.capacity + end) * across; at < (s + 1) * one.capacity * across; ++at) keys[at] = values[at] = NAN;
    for (int64_t i = 0; i < t; ++i)
      if (one.slots[i] == s && is_valid(i)) std::fill_n(keys.begin() + (s * one.capacity + one.positions[i]) * across, across, NAN);
  }
  for (int64_t at = 0; at < cached; ++at) {
    keys16[at] = bf16_of(keys[at]), values16[at] = bf16_of(values[at]);
    keys[at] = in_cache(keys[at]), values[at] = in_cache(values[at]);
  }
  const Buffer<float> dq(q), dk(k), dv(v), dcos(cos), dsin(sin), out(q.size());
  const Buffer<int> ds(one.slots), dp(one.positions);
  std::vector<uint8_t> raw_keys(cached * (one.bf16 ? 2 : 4)), raw_values(raw_keys.size());
  std::memcpy(raw_keys.data(), one.bf16 ? static_cast<void*>(keys16.data()) : keys.data(), raw_keys.size());
  std::memcpy(raw_values.data(), one.bf16 ? static_cast<void*>(values16.data()) : values.data(), raw_values.size());
  const Buffer<uint8_t> dkeys(raw_keys), dvalues(raw_values);
  check(cudaMemset(out.at, 0x55, out.size * 4));
  const ops::AttendCacheArgs args{dq.at, dk.at, dv.at, dcos.at, dsin.at, ds.at, dp.at, dkeys.at, dvalues.at, out.at, t, one.heads, one.kv_heads, one.e,
                                  one.count, one.capacity, one.window, static_cast<float>(1 / std::sqrt(one.e)), one.bf16};
  std::vector<float> first;
  for (int again = 0; again < 2; ++again) {
    if (in_graph) {
      cudaGraph_t graph;
      cudaGraphExec_t made;
      check(cudaStreamBeginCapture(ops::bench_stream, cudaStreamCaptureModeRelaxed));
      ops::attend_cache(args);
      check(cudaStreamEndCapture(ops::bench_stream, &graph));
      check(cudaGraphInstantiate(&made, graph, 0));
      check(cudaGraphLaunch(made, ops::bench_stream));
      check(cudaStreamSynchronize(ops::bench_stream));
      cudaGraphExecDestroy(made), cudaGraphDestroy(graph);
    } else {
      ops::attend_cache(args);
      check(cudaStreamSynchronize(ops::bench_stream));
    }
    const std::vector<float> result = out.read();
    if (again && std::memcmp(first.data(), result.data(), result.size() * 4) != 0) return NAN;
    first = result;
  }

  const auto turned = [&](const float* head, int64_t l, int64_t p) {
    const double c = cos[p * half + l % half], s = sin[p * half + l % half];
    return l < half ? head[l] * c - head[l + half] * s : head[l] * c + head[l - half] * s;
  };
  std::vector<double> exact_keys(keys.begin(), keys.end()), exact_values(values.begin(), values.end());
  for (int64_t i = 0; i < t; ++i) {
    if (!is_valid(i)) continue;
    for (int64_t at = 0; at < across; ++at) {
      const int64_t place = (one.slots[i] * one.capacity + one.positions[i]) * across + at;
      exact_keys[place] = one.bf16 ? in_cache(static_cast<float>(turned(&k[i * across + at / one.e * one.e], at % one.e, one.positions[i])))
                                   : turned(&k[i * across + at / one.e * one.e], at % one.e, one.positions[i]);
      exact_values[place] = in_cache(v[i * across + at]);
    }
  }
  double error = 0, power = 0;
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t h = 0; h < one.heads; ++h) {
      const float* got = &first[(i * one.heads + h) * one.e];
      if (!is_valid(i)) {
        for (int64_t l = 0; l < one.e; ++l) if (!std::isnan(got[l])) return NAN;
        continue;
      }
      const int64_t p = one.positions[i], begin = one.window > 0 ? std::max<int64_t>(0, p + 1 - one.window) : 0, kv = h / (one.heads / one.kv_heads);
      std::vector<double> turned_q(one.e), weights, sum(one.e);
      for (int64_t l = 0; l < one.e; ++l) turned_q[l] = turned(&q[(i * one.heads + h) * one.e], l, p);
      double total = 0;
      for (int64_t j = begin; j <= p; ++j) {
        const int64_t place = (one.slots[i] * one.capacity + j) * across + kv * one.e;
        double score = 0;
        for (int64_t l = 0; l < one.e; ++l) score += turned_q[l] * exact_keys[place + l];
        const double weight = std::exp(score / std::sqrt(one.e));
        total += weight;
        for (int64_t l = 0; l < one.e; ++l) sum[l] += weight * exact_values[place + l];
      }
      for (int64_t l = 0; l < one.e; ++l) error += std::pow(got[l] - sum[l] / total, 2), power += std::pow(sum[l] / total, 2);
    }
  }
  double kept_error = 0, kept_power = 0;
  const std::vector<uint8_t> now_keys = dkeys.read(), now_values = dvalues.read();
  const auto element = [&](const std::vector<uint8_t>& x, int64_t at) {
    float value;
    uint16_t half_value;
    if (!one.bf16) return std::memcpy(&value, &x[4 * at], 4), value;
    return std::memcpy(&half_value, &x[2 * at], 2), of_bf16(half_value);
  };
  for (int64_t at = 0; at < cached; ++at) {
    if (std::isnan(exact_keys[at])) {
      if (!std::isnan(element(now_keys, at)) || !std::isnan(element(now_values, at))) return NAN;  // written where nothing belongs
      continue;
    }
    kept_error += std::pow(element(now_keys, at) - exact_keys[at], 2) + std::pow(element(now_values, at) - exact_values[at], 2);
    kept_power += std::pow(exact_keys[at], 2) + std::pow(exact_values[at], 2);
  }
  return std::max(power > 0 ? error / power : 0, kept_power > 0 ? kept_error / kept_power : 0);
}

int check_all(bool few) {
  const auto steps = [](int count, int from) { std::vector<int> x; for (int i = 0; i < count; ++i) x.push_back(from + i); return x; };
  std::vector<Case> cases;
  for (const int p : {0, 1, 3, 4, 31, 32, 200, 255, 256, 257}) cases.push_back({{0}, {p}, 1, 300, 4, 4, 128, 0, false});
  for (const int p : {1022, 1023, 1024, 1025, 2047, 2048, 2600}) cases.push_back({{0}, {p}, 1, 2700, 4, 2, 64, 0, false});
  for (const int kv : {1, 2, 3})
    for (const int each : {1, 2, 3, 4, 5, 7, 8, 12}) cases.push_back({{1, 0}, {290, 33}, 2, 300, kv * each, kv, kv == 2 ? 64 : 128, 0, false});
  cases.push_back({steps(4, 0), {700, 0, 1300, 37}, 4, 1400, 8, 1, 128, 0, false});
  cases.push_back({{0, 0, 0, 1, 0, 2}, {297, 298, 299, 50, 296, 0}, 3, 300, 8, 2, 128, 0, false});
  cases.push_back({std::vector<int>(16, 0), steps(16, 250), 1, 300, 4, 4, 128, 0, false});
  cases.push_back({std::vector<int>(40, 0), steps(40, 250), 1, 300, 8, 2, 128, 37, false});
  cases.push_back({{0, 0}, {60, 61}, 1, 100, 2, 1, 20, 1, false});
  cases.push_back({{0}, {2000}, 1, 3000, 4, 2, 128, 1500, false});
  cases.push_back({{0, 3, -1, 1, 1}, {5, 5, 5, 100, -1}, 2, 100, 6, 2, 128, 0, false});
  for (const int e : {2, 18, 80, 96, 256, 512}) cases.push_back({{0}, {77}, 1, 100, 4, 2, e, 0, false});
  int bad = 0, done = 0;
  for (Case one : cases) {
    for (const bool bf16 : {false, true}) {
      for (const bool in_graph : {false, true}) {
        if (few && (one.capacity > 300 || in_graph)) continue;
        one.bf16 = bf16, ++done;
        const double error = error_of(one, in_graph);
        if (error <= (bf16 ? 1e-6 : 1e-12)) continue;
        ++bad;
        std::printf("WRONG t %zu position %d capacity %ld heads %ld/%ld e %ld window %ld %s %s: %g\n", one.slots.size(), one.positions[0], (long)one.capacity,
                    (long)one.heads, (long)one.kv_heads, (long)one.e, (long)one.window, bf16 ? "bf16" : "f32", in_graph ? "graph" : "alone", error);
      }
    }
  }
  std::printf("%d of %d cases are right\n", done - bad, done);
  return bad > 0;
}

// Stands for what makes q, k and v: copies them, after `clocks` clocks.
__global__ void make_kernel(const float* from, float* to, int64_t n, int64_t clocks) {
  ops::wait_for_previous();
  ops::let_next_begin();
  for (const int64_t start = clock64(); clock64() - start < clocks;) {}
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) to[i] = from[i];
}

__global__ void fill_kernel(uint32_t* to, int64_t n, bool bf16) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const uint32_t h = static_cast<uint32_t>(i) * 2654435761u;
    to[i] = bf16 ? (0x3f003f00u | (h & 0x80ff80ffu)) : (0x3f000000u | (h & 0x80ffffffu));
  }
}

template <class F>
double median_us(F enqueue, int repeats) {
  cudaGraph_t graph;
  cudaGraphExec_t made;
  check(cudaStreamBeginCapture(ops::bench_stream, cudaStreamCaptureModeRelaxed));
  enqueue();
  check(cudaStreamEndCapture(ops::bench_stream, &graph));
  check(cudaGraphInstantiate(&made, graph, 0));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin)), check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int run = 0; run < repeats + 2; ++run) {
    check(cudaEventRecord(begin, ops::bench_stream));
    check(cudaGraphLaunch(made, ops::bench_stream));
    check(cudaEventRecord(end, ops::bench_stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    if (run >= 2) times.push_back(ms * 1000);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(made), cudaGraphDestroy(graph);
  return times[times.size() / 2];
}

void time_all(bool few) {
  std::printf("%-12s %-5s %3s %9s %8s %9s %8s %12s\n", "heads", "cache", "t", "position", "MB", "at 3 TB/s", "µs", "behind 6 µs");
  struct Shape { int64_t heads, kv_heads, e, t; };
  for (const Shape& shape : {Shape{32, 32, 128, 1}, Shape{64, 8, 128, 1}, Shape{32, 8, 128, 1}, Shape{32, 8, 64, 1}, Shape{32, 32, 128, 8}}) {
    for (const bool bf16 : {false, true}) {
      for (const int64_t position : {20, 200, 1000, 2000, 16000}) {
        if ((shape.t > 1 && position > 2000) || (few && (shape.t > 1 || shape.e == 64 || position == 20 || position == 16000))) continue;
        if (shape.e == 64 && position != 200 && position != 2000) continue;
        const int64_t across = shape.kv_heads * shape.e, capacity = position + 57, n = (shape.heads + 2 * shape.kv_heads) * shape.e * shape.t;
        const int64_t bytes = shape.t * capacity * across * (bf16 ? 2 : 4), layers = std::clamp<int64_t>((256 << 20) / (2 * bytes), 2, 32);
        const Buffer<uint8_t> cache(2 * layers * bytes);
        fill_kernel<<<2048, 256, 0, ops::bench_stream>>>(reinterpret_cast<uint32_t*>(cache.at), 2 * layers * bytes / 4, bf16);
        const Buffer<float> inputs(random(n, 1)), made(n), out(shape.heads * shape.e * shape.t), angles(random(capacity * shape.e / 2, 2));
        std::vector<int> rows(shape.t);
        for (int i = 0; i < shape.t; ++i) rows[i] = i;
        const Buffer<int> slots(rows), positions(std::vector<int>(shape.t, static_cast<int>(position)));
        double times[2];
        for (const int64_t clocks : {0, 10000}) {
          const auto layer = [&](int64_t i, bool with) {
            check(ops::launch(make_kernel, 48, 256, 0, ops::bench_stream, true, inputs.at, made.at, n, clocks));
            if (!with) return;
            const float* k = made.at + shape.t * shape.heads * shape.e;
            uint8_t *keys = cache.at + 2 * i * bytes, *values = keys + bytes;
            ops::attend_cache({made.at, k, k + shape.t * across, angles.at, angles.at, slots.at, positions.at, keys, values, out.at, shape.t, shape.heads,
                               shape.kv_heads, shape.e, shape.t, capacity, 0, 0.088f, bf16});
          };
          const int repeats = position > 4000 ? 5 : 15;
          layer(0, true);
          const double with = median_us([&] { for (int64_t i = 0; i < 2 * layers; ++i) layer(i % layers, true); }, repeats);
          const double without = median_us([&] { for (int64_t i = 0; i < 2 * layers; ++i) layer(i % layers, false); }, repeats);
          times[clocks > 0] = (with - without) / (2 * layers);
        }
        const double moved = 2.0 * shape.t * (position + 1) * across * (bf16 ? 2 : 4);
        std::printf("%3ld/%-3ld e %-3ld %-5s %3ld %9ld %8.2f %9.2f %8.2f %12.2f\n", (long)shape.heads, (long)shape.kv_heads, (long)shape.e,
                    bf16 ? "bf16" : "f32", (long)shape.t, (long)position, moved / 1e6, moved / 3e6, times[0], times[1]);
      }
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string what = count > 1 ? arguments[1] : "";
    check(cudaStreamCreateWithFlags(&ops::bench_stream, cudaStreamNonBlocking));
    if (what == "check") return check_all(count > 2);
    if (what == "time") return time_all(count > 2), 0;
    std::fprintf(stderr, "attend-bench check [few] | time [few]\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
