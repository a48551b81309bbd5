// Compiled for compute capability 9.0a alone.
#include <bit>
#include <string>

#include "../../core/cuda.cuh"
#include "prompt_rows_kernel.cuh"

namespace ops::prompt {

namespace {

constexpr int kMostFactor = 192, kMostRow = 24576;

// What a block may have, and a multiprocessor has for each of several.
constexpr size_t kMostShared = 226 << 10;


// M, or its transpose, as the A operand of m64n64k16: 64 columns after the other, rows of 128 bytes whose parts are swizzled, zeros around.
std::vector<float> matrix(int own, int factor, bool transposed) {
  const std::vector<float> m = hadamard_matrix(own);
  const int beyond = factor / own, tiles = (factor + 63) / 64;
  std::vector<uint32_t> words(static_cast<size_t>(tiles) * tiles * kTileBytes / 4);
  for (int row = 0; row < factor; ++row) {
    for (int k = 0; k < factor; ++k) {
      const int r = row / beyond, c = k / beyond, flips = std::popcount(static_cast<unsigned>(row % beyond & k % beyond));
      const float sign = m[transposed ? r * own + c : c * own + r] * (flips % 2 ? -1 : 1);
      const size_t at = static_cast<size_t>(k / 64 * tiles * 64 + row) * 64 + (k % 64 / 8 ^ row % 8) * 8 + k % 8;
      words[at / 2] |= (sign < 0 ? 0xbc00u : 0x3c00u) << at % 2 * 16;
    }
  }
  std::vector<float> floats;
  for (const uint32_t word : words) floats.push_back(std::bit_cast<float>(word));
  return floats;
}

template <Rows kind, int kGroups, int kRuns>
void run(const RowTransforms& transforms, int64_t t, int count, const RowParts& to, int pieces) {
  const auto kernel = rows_kernel<kind, kGroups, kRuns>;
  const RowShape shape{transforms.of[0].factor, transforms.of[0].w};
  const int64_t items = t * count;
  const int each = kind == Rows::gated ? 2 : pieces;
  // Several blocks a multiprocessor where they are small and there are rows for them; slots for another row where there is room.
  int held = kGroups == 1 && items > multiprocessors() ? 4 : 1;
  while (held > 1 && rows_bytes(shape, each) > kMostShared / held) --held;
  int slots = each;
  while (slots < 3 * each && slots < kMostSlots && rows_bytes(shape, slots + 1) <= kMostShared / held) ++slots;
  const size_t bytes = rows_bytes(shape, slots);
  allow_shared(kernel, bytes);
  const int64_t blocks = std::min<int64_t>(items, held * multiprocessors());
  check(launch(kernel, static_cast<unsigned>(blocks), kGroups * 128, bytes, stream(), true, transforms, to, static_cast<int>(t), count, pieces, slots));
}

template <Rows kind>
void choose(const RowTransforms& transforms, int64_t t, int count, const RowParts& to, int pieces) {
  const int n = transforms.of[0].n;
  if (n <= 128 * 2 * 16) return run<kind, 1, 2>(transforms, t, count, to, pieces);
  if (n <= 384 * 2 * 16) return run<kind, 3, 2>(transforms, t, count, to, pieces);
  run<kind, 3, 4>(transforms, t, count, to, pieces);
}

}  // namespace

RowShape row_shape(int64_t n, int64_t block, int64_t factor, int64_t inputs) {
  if (block != n || n > kMostRow || inputs > kMostSlots) return {};
  for (int w = 64; w <= 128; w *= 2) {
    const RowShape shape{static_cast<int>(n / w), w};
    if (block / factor % w == 0 && n / w <= kMostFactor && rows_bytes(shape, static_cast<int>(inputs)) <= kMostShared) return shape;
  }
  return {};
}

RowTransform row_transform(const RowShape& shape, int64_t factor, bool transposed) {
  RowTransform t{};
  t.n = shape.factor * shape.w, t.factor = shape.factor, t.w = shape.w, t.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(t.n)));
  const std::string name = "rows of hadamard " + std::to_string(factor) + " as " + std::to_string(shape.factor) + (transposed ? " transposed" : "");
  t.mix = reinterpret_cast<const uint4*>(constant(name + ", operand", [&] { return matrix(static_cast<int>(factor), shape.factor, transposed); }));
  return t;
}

void begin_rows(const RowTransform& in, int64_t t, const RowParts& to) {
  RowTransforms one{};
  one.of[0] = in;
  if (in.weight) choose<Rows::normed>(one, t, 1, to, 1);
  else if (in.gate) choose<Rows::gated>(one, t, 1, to, 1);
  else choose<Rows::scaled>(one, t, 1, to, 1);
}

void finish_rows(const RowTransforms& outputs, int count, int64_t t, const float* units, int pieces) {
  choose<Rows::finished>(outputs, t, count, {nullptr, const_cast<float*>(units), 0, false}, pieces);
}

}  // namespace ops::prompt
