// x in whole numbers, blocks of rows among the threads, and the sums made into numbers again.
#include "product.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../../core/parallel.h"
#include "product_portable.h"

namespace ops {
namespace product {
namespace {

int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// ── x ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

int32_t nearest(double x) { return static_cast<int32_t>(x + std::copysign(0.5, x)); }

// ΣX, Σ(X − x2)/256.
struct Sums {
  int64_t all = 0, high = 0;
};

// Rows of x as whole numbers of `unit`: their digits in the kernel's order, [t][stride].
struct Vectors {
  double unit[kMostVectors];
  Sums sums[kMostVectors];
  std::vector<uint8_t> digits;
  int64_t stride = 0;
};

// What a unit of this row is worth; NaN where not all of it is finite.
double unit_of(const float* x, int64_t n, double largest) {
  int32_t most = 0;  // numbers without their signs are in the order of their bits
  for (int64_t j = 0; j < n; ++j) most = std::max(most, std::bit_cast<int32_t>(x[j]) & 0x7fffffff);
  if (most >= 0x7f800000) return std::numeric_limits<double>::quiet_NaN();
  return most == 0 ? 1 : std::bit_cast<float>(most) / largest;
}

constexpr int64_t kPiece = 2048;  // columns

// Takes the last digit off `count` numbers, from −2^(bits−1) to 2^(bits−1) − 1, and gives the sum of these.
template <int bits>
int64_t last_digits(int32_t* X, int64_t count, int16_t* digits) {
  constexpr int32_t half = 1 << (bits - 1);
  int32_t sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    const int32_t digit = ((X[j] + half) & (2 * half - 1)) - half;
    X[j] = (X[j] - digit) >> bits;
    digits[j] = static_cast<int16_t>(digit);
    sum += digit;
  }
  return sum;
}

// A piece of a row: `count` columns, in whole chunks that zeros fill. Loops of their own, so that the compiler finds vectors in them.
template <class Digit>
Sums convert(const float* x, int64_t count, double unit, const Kernel& kernel, int columns, Digit* to) {
  const int64_t chunks = blocks_of(count, columns), whole = chunks * columns;
  int32_t X[kPiece];
  int16_t digits[3][kPiece];
  std::fill(X + count, X + whole, 0);
  if (unit == unit) {
    for (int64_t j = 0; j < count; ++j) X[j] = nearest(x[j] * (1 / unit));
  } else {
    std::fill_n(X, count, 0);
  }
  Sums sums;
  if (kernel.digits == Digits::bytes) {
    const int64_t last = last_digits<8>(X, whole, digits[2]), middle = last_digits<8>(X, whole, digits[1]), first = last_digits<8>(X, whole, digits[0]);
    sums = {first * 65536 + middle * 256 + last, first * 256 + middle};
  } else if (kernel.digits == Digits::halves) {
    const int64_t last = last_digits<12>(X, whole, digits[1]), first = last_digits<12>(X, whole, digits[0]);
    sums.all = first * 4096 + last;
  } else {
    sums.all = last_digits<8>(X, whole, digits[0]);
  }
  int from[std::extent_v<decltype(Slots::at)>];
  for (int i = 0; i < kernel.slots.count; ++i) from[i] = kernel.slots.at[i].digit * kPiece + kernel.slots.at[i].column;
  for (const int16_t* chunk = digits[0]; chunk < digits[0] + whole; chunk += columns) {
    for (int i = 0; i < kernel.slots.count; ++i) *to++ = static_cast<Digit>(chunk[from[i]]);
  }
  return sums;
}

Vectors convert(const TrellisProductArgs& a, const Kernel& kernel, Order order, int64_t chunks) {
  Vectors out;
  const int64_t chunk_bytes = int64_t{kernel.slots.count} * kernel.slot_bytes, pieces = blocks_of(a.columns, kPiece);
  out.stride = chunks * chunk_bytes;
  out.digits.resize(room_for(a.t) * out.stride);
  for (int64_t b = 0; b < a.t; ++b) out.unit[b] = unit_of(a.x + b * a.columns, a.columns, a.int8 ? 127 : 127 * 65536 + 127 * 256 + 127);
  std::vector<Sums> sums(a.t * pieces);
  parallel_for(a.t * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / pieces, from = i % pieces * kPiece, count = std::min(kPiece, a.columns - from);
      const float* const x = a.x + b * a.columns + from;
      uint8_t* const to = out.digits.data() + b * out.stride + from / order.columns() * chunk_bytes;
      sums[i] = kernel.slot_bytes == 1 ? convert(x, count, out.unit[b], kernel, order.columns(), to)
                                       : convert(x, count, out.unit[b], kernel, order.columns(), reinterpret_cast<int16_t*>(to));
    }
  });
  for (int64_t i = 0; i < a.t * pieces; ++i) out.sums[i / pieces].all += sums[i].all, out.sums[i / pieces].high += sums[i].high;
  return out;
}

// ── which kernel, and what it reads ──────────────────────────────────────────────────────────────────────────────────

Kernel choose(const TrellisProductArgs& a, Order order) {
  const auto code = static_cast<ProductCode>(a.code);
  const int K = static_cast<int>(a.K);
#ifdef __x86_64__
  const bool has_all = __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni");
  if (context().level == Level::avx512 && has_all) return avx512_kernel(code, K, order, a.int8, a.t);
  if (context().level != Level::portable) return avx2_kernel(code, K, order, a.int8);
#endif
  return kernel_of<PortableLanes>(code, K, order, a.int8);
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

// The better of a unit that is a power of two, in which all but small f16 numbers are whole, and the smallest. In int8, the smallest for
// 8 bits. Gives the unit.
double whole_table(const uint16_t* f16, bool int8, int16_t* table) {
  float entries[1024], most = 0x1p-14f;
  for (int i = 0; i < 1024; ++i) {
    entries[i] = f16_to_f32(f16[i]);
    most = std::max(most, std::fabs(entries[i]));
  }
  if (int8) {
    whole_table(entries, most / 127.0, table);
    return most / 127.0;
  }
  const double smallest = most / (127.0 * 256 + 127), power = std::exp2(std::ceil(std::log2(smallest)));
  int16_t other[1024];
  if (whole_table(entries, power, table) <= whole_table(entries, smallest, other)) return power;
  std::copy_n(other, 1024, table);
  return smallest;
}

// What the kernels read of hyb's table; unit: what its whole numbers are worth.
struct Table {
  double unit = 0x1p-13;
  alignas(64) uint8_t bytes[kTable];
};

// Of the last tables, found by their entries: to make one takes as long as a product of 256 × 256, and a model has one, or one a linear.
const Table& table_of(const uint16_t* entries, const Kernel& kernel, bool int8) {
  thread_local std::map<std::tuple<decltype(kernel.arrange_table), bool, std::vector<uint16_t>>, Table> made;
  constexpr size_t kMost = 1024;
  std::vector<uint16_t> key(entries, entries + 1024);
  const auto found = made.find({kernel.arrange_table, int8, key});
  if (found != made.end()) return found->second;
  if (made.size() >= kMost) made.clear();
  Table& table = made[{kernel.arrange_table, int8, std::move(key)}];
  int16_t whole[1024];
  table.unit = whole_table(entries, int8, whole);
  kernel.arrange_table(whole, table.bytes);
  return table;
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
  const Kernel kernel = choose(a, order);
  const bool byte_sums = code == ProductCode::mul1 || code == ProductCode::mad1;

  const Vectors x = convert(a, kernel, order, chunks);
  const Table none{};
  const Table& table = code == ProductCode::hyb ? table_of(a.entries, kernel, a.int8) : none;
  const ByteSum to = byte_sum_of(code);
  const double unit = kernel.digits == Digits::bytes ? 256 * table.unit : table.unit;

  parallel_for(blocks_of(a.rows, order.rows()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto* const words = reinterpret_cast<const uint16_t*>(a.arranged) + block * chunks * a.K * kLanes;
      const Job job{chunks, words, table.bytes, x.digits.data(), x.stride};
      int64_t sums[kMostVectors][32] = {};
      kernel.rows(job, static_cast<int>(a.t), sums);
      const int64_t first = block * order.rows(), count = std::min<int64_t>(order.rows(), a.rows - first);
      for (int64_t b = 0; b < a.t; ++b) {
        const int64_t bias = kernel.high_bias * x.sums[b].all + kernel.low_bias * x.sums[b].high;
        for (int64_t i = 0; i < count; ++i) {
          const double sum = static_cast<double>(sums[b][i] - (byte_sums ? 510 * x.sums[b].all : bias));
          const double y = byte_sums ? sum * to.gain + static_cast<double>(x.sums[b].all) * to.offset : sum * unit;
          a.y[b * a.rows + first + i] = static_cast<float>(y * x.unit[b]);
        }
      }
    }
  });
}

}  // namespace ops
