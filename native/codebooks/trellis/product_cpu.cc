// x in whole numbers, blocks of rows among the threads, and the sums made into numbers again; and the kernel for any machine.
#include "product.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../../core/parallel.h"
#include "product_code.h"
#include "product_rows.h"

namespace ops {
namespace product {
namespace {

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// ── x ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

// Rows of x as whole numbers of `unit`, and their digits in a kernel's order. Whatever is not finite makes all of its row NaN.
struct Vectors {
  double unit[kMostVectors];
  int64_t sum[kMostVectors], high_sum[kMostVectors];  // ΣX, Σ(X − x2)/256
  std::vector<int32_t> whole;                         // [t][columns]: where the kernel has no slots
  std::vector<uint8_t> digits;                        // [t][stride]
  int64_t stride = 0;
};

int32_t nearest(double x) { return static_cast<int32_t>(x + (x < 0 ? -0.5 : 0.5)); }

// What is left of X after its last digit, which is from −base/2 to base/2 − 1.
int32_t last_digit(int32_t& X, int bits) {
  const int32_t half = 1 << (bits - 1), digit = ((X + half) & (2 * half - 1)) - half;
  X = (X - digit) >> bits;
  return digit;
}

void convert(const TrellisProductArgs& a, int64_t b, const Kernel& kernel, Order order, int64_t chunks, Vectors& out) {
  const float* const x = a.x + b * a.columns;
  float most = 0, bad = 0;
  for (int64_t j = 0; j < a.columns; ++j) {
    most = std::max(most, std::fabs(x[j]));
    bad += x[j] * 0.f;
  }
  const double largest = a.int8 ? 127 : 127 * 65536 + 127 * 256 + 127;
  out.unit[b] = bad == 0 ? (most == 0 ? 1 : most / largest) : std::numeric_limits<double>::quiet_NaN();
  const double inverse = bad == 0 ? 1 / out.unit[b] : 0;
  const int64_t padded = chunks * order.columns();
  const int count = kernel.digits == Digits::bytes ? 3 : kernel.digits == Digits::halves ? 2 : 1;
  std::vector<int16_t> digits(kernel.rows ? count * padded : 0);
  int64_t sum = 0, high = 0;
  for (int64_t j = 0; j < a.columns; ++j) {
    int32_t X = nearest(x[j] * inverse);
    sum += X;
    if (!kernel.rows) out.whole[b * a.columns + j] = X;
    if (kernel.digits == Digits::bytes) {
      const int16_t x2 = static_cast<int16_t>(last_digit(X, 8));
      high += X;
      if (!kernel.rows) continue;
      digits[2 * padded + j] = x2;
      digits[padded + j] = static_cast<int16_t>(last_digit(X, 8));
    } else if (kernel.digits == Digits::halves && kernel.rows) {
      digits[padded + j] = static_cast<int16_t>(last_digit(X, 12));
    }
    if (kernel.rows) digits[j] = static_cast<int16_t>(X);
  }
  out.sum[b] = sum, out.high_sum[b] = high;
  uint8_t* to = out.digits.data() + b * out.stride;
  for (int64_t chunk = 0; chunk < chunks && kernel.rows; ++chunk) {
    const int16_t* const from = digits.data() + chunk * order.columns();
    for (const Slot& slot : kernel.slots) {
      const int16_t digit = from[slot.digit * padded + slot.column];
      std::memcpy(to, &digit, kernel.slot_bytes);  // the low byte first
      to += kernel.slot_bytes;
    }
  }
}

// ── any machine ───────────────────────────────────────────────────────────────────────────────────────────────────────

uint32_t state_at(const uint16_t* chunk, Order order, int lane, int at, int K) {
  // The lane whose run comes after this lane's.
  const int next = !order.tensor_core ? (lane + 2) % kLanes : lane % 2 ? lane - 1 : lane / 16 * 16 + (lane + 3) % 16;
  const int q = at / 16;
  const uint32_t high = chunk[q * kLanes + lane], low = q + 1 < K ? chunk[(q + 1) * kLanes + lane] : chunk[next];
  return (high << 16 | low) >> (16 - at % 16) & 0xffff;
}

// As the kernels do, from whole x: [vectors][columns].
void portable_rows(const Job& job, int K, const int32_t* whole, int64_t columns, int vectors, int64_t (*sums)[32]) {
  const int V = job.code == ProductCode::hyb ? 2 : 1;
  const bool byte_sums = job.code == ProductCode::mul1 || job.code == ProductCode::mad1;
  const ByteSum to = byte_sum_of(job.code);
  for (int64_t chunk = 0; chunk < job.chunks; ++chunk) {
    const uint16_t* const words = job.words + chunk * K * kLanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int p = 0; p < 16; ++p) {
        const int64_t column = chunk * job.order.columns() + job.order.column(p, lane % 2);
        if (column >= columns) continue;
        const int row = job.order.tensor_core ? lane / 16 * 16 + (p & 2) * 4 + lane % 16 / 2 : lane / 2;
        const uint32_t s = state_at(words, job.order, lane, p / V * V * K, K);
        if (byte_sums) {
          const int64_t v = byte_sum(s * to.factor + to.addend);
          for (int b = 0; b < vectors; ++b) sums[b][row] += v * whole[b * columns + column];
          continue;
        }
        int v, h;
        if (job.code == ProductCode::hyb) {
          const uint32_t u = s * (s + 1);
          v = reinterpret_cast<const int16_t*>(job.table)[2 * (u >> 6 & 511) + p % 2];
          if (p % 2 == 0 && u & 0x8000) v = -v;
          h = (v + 128) >> 8;
        } else {
          v = static_cast<int>(value(job.code, s, nullptr).first * 8192);
          h = v >> 8;
        }
        for (int b = 0; b < vectors; ++b) {
          int32_t X = whole[b * columns + column];
          sums[b][row] += int64_t{h} * X;
          last_digit(X, 8);
          sums[b][row] += int64_t{v - 256 * h} * X;
        }
      }
    }
  }
}

Kernel choose(const TrellisProductArgs& a, Order order) {
  const auto code = static_cast<ProductCode>(a.code);
  const int K = static_cast<int>(a.K);
#ifdef __x86_64__
  const bool has_all = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
  if (context().level == Level::avx512 && has_all) return avx512_kernel(code, K, order, a.int8);
  if (context().level != Level::portable) return avx2_kernel(code, K, order, a.int8);
#endif
  return {};
}

// hyb's table in units; gives the squared error. The first of a pair, which may be negated, has no low byte of −128.
double whole_table(const float* entries, double unit, int16_t* table) {
  double error = 0;
  for (int i = 0; i < 1024; ++i) {
    int v = nearest(entries[i] / unit);
    if (i % 2 == 0 && (v & 255) == 128) v += v < 0 ? 1 : -1;
    error += (entries[i] - v * unit) * (entries[i] - v * unit);
    table[i] = static_cast<int16_t>(v);
  }
  return error;
}

// The better of a unit that is a power of two, in which all but small f16 numbers are whole, and the smallest. Gives the unit.
double whole_table(const uint16_t* f16, int16_t* table) {
  float entries[1024], most = 0x1p-14f;
  for (int i = 0; i < 1024; ++i) {
    entries[i] = f16_to_f32(f16[i]);
    most = std::max(most, std::fabs(entries[i]));
  }
  const double smallest = most / (127.0 * 256 + 127), power = std::exp2(std::ceil(std::log2(smallest)));
  int16_t other[1024];
  if (whole_table(entries, power, table) <= whole_table(entries, smallest, other)) return power;
  std::copy_n(other, 1024, table);
  return smallest;
}

}  // namespace
}  // namespace product

void trellis_arrange(const TrellisArrangeArgs& a) {
  using namespace product;
  const Order order{a.tensor_core};
  const int K = static_cast<int>(a.K);
  const int64_t across = a.columns / 16, down = a.rows / 16, chunks = blocks_of(a.columns, order.columns());
  auto* const arranged = reinterpret_cast<uint16_t*>(a.arranged);
  parallel_for(blocks_of(a.rows, order.rows()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * chunks; i < end * chunks; ++i) {
      const int64_t block = i / chunks, chunk = i % chunks;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t row = a.tensor_core ? block * 2 + lane / 16 : block, column = a.tensor_core ? chunk : chunk * 2 + (lane % 2 ? 0 : 1);
        const int run = a.tensor_core ? lane % 16 / 2 * 2 + (lane % 2 ? 0 : 1) : lane / 2;
        const bool inside = row < down && column < across;
        const int16_t* const words = a.packed + (row * across + column) * 16 * K + run * K;
        for (int q = 0; q < K; ++q) arranged[(i * K + q) * kLanes + lane] = inside ? static_cast<uint16_t>(words[q]) : 0;
      }
    }
  });
}

void trellis_product(const TrellisProductArgs& a) {
  using namespace product;
  const Order order{a.tensor_core};
  const auto code = static_cast<ProductCode>(a.code);
  const int64_t chunks = blocks_of(a.columns, order.columns());
  Kernel kernel = choose(a, order);
  const bool byte_sums = code == ProductCode::mul1 || code == ProductCode::mad1;
  if (!kernel.rows) kernel.digits = byte_sums ? Digits::halves : Digits::bytes;

  Vectors x;
  x.stride = chunks * static_cast<int64_t>(kernel.slots.size()) * kernel.slot_bytes;
  if (kernel.rows) x.digits.resize((a.t + kTogether - 1) / kTogether * kTogether * x.stride);
  else x.whole.resize(a.t * a.columns);
  parallel_for(a.t, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) convert(a, b, kernel, order, chunks, x);
  });
  alignas(64) uint8_t table[kTable];
  int16_t whole[1024];
  const double unit = code == ProductCode::hyb ? whole_table(a.entries, whole) : 0x1p-13;
  if (kernel.arrange_table) kernel.arrange_table(whole, table);
  else if (code == ProductCode::hyb) std::memcpy(table, whole, sizeof whole);
  const ByteSum to = byte_sum_of(code);

  parallel_for(blocks_of(a.rows, order.rows()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto* const words = reinterpret_cast<const uint16_t*>(a.arranged) + block * chunks * a.K * kLanes;
      const Job job{code, order, chunks, words, table, x.digits.data(), x.stride};
      int64_t sums[kMostVectors][32] = {};
      if (kernel.rows) kernel.rows(job, static_cast<int>(a.t), sums);
      else portable_rows(job, static_cast<int>(a.K), x.whole.data(), a.columns, static_cast<int>(a.t), sums);
      const int64_t first = block * order.rows(), count = std::min<int64_t>(order.rows(), a.rows - first);
      for (int64_t b = 0; b < a.t; ++b) {
        const int64_t bias = kernel.high_bias * x.sum[b] + kernel.low_bias * x.high_sum[b];
        for (int64_t i = 0; i < count; ++i) {
          const double sum = static_cast<double>(sums[b][i] - (byte_sums ? 510 * x.sum[b] : bias));
          a.y[b * a.rows + first + i] =
              static_cast<float>(byte_sums ? (sum * to.gain + static_cast<double>(x.sum[b]) * to.offset) * x.unit[b] : sum * (256 * unit * x.unit[b]));
        }
      }
    }
  });
}

}  // namespace ops
