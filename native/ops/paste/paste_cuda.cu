#include "paste.h"

#include "../../core/cuda.cuh"

namespace ops {

namespace {

// In words of T, which divides offsets, strides and the bytes of a row. A copy by the driver takes 10 µs for the narrow
// rectangles of LDLQ, 64 bytes a row.
template <class T>
void copy_rows(const PasteArgs& args) {
  constexpr int64_t kWord = sizeof(T);
  const T* const x = reinterpret_cast<const T*>(args.x + args.x_offset);
  T* const into = reinterpret_cast<T*>(args.into + args.into_offset);
  const int64_t words = args.row_bytes / kWord, x_stride = args.x_stride / kWord, into_stride = args.into_stride / kWord, total = args.rows * words;
  if (total < int64_t{1} << 31) {
    const unsigned a_row = static_cast<unsigned>(words);  // divides faster
    return each(total, [=] __device__(int64_t i) {
      const unsigned e = static_cast<unsigned>(i), r = e / a_row, j = e - r * a_row;
      into[r * into_stride + j] = x[r * x_stride + j];
    });
  }
  each(total, [=] __device__(int64_t e) { into[e / words * into_stride + e % words] = x[e / words * x_stride + e % words]; });
}

}  // namespace

void paste(const PasteArgs& args) {
  const auto& [x, into, x_offset, x_stride, into_offset, into_stride, rows, row_bytes] = args;
  if (rows <= 0 || row_bytes <= 0) return;
  const bool whole = rows == 1 || (x_stride == row_bytes && into_stride == row_bytes);
  if (whole) return check(cudaMemcpyAsync(into + into_offset, x + x_offset, rows * row_bytes, cudaMemcpyDeviceToDevice, stream()));
  const int64_t all = x_offset | x_stride | into_offset | into_stride | row_bytes;  // tensors begin at multiples of 256
  if (all % 16 == 0) return copy_rows<uint4>(args);
  if (all % 4 == 0) return copy_rows<uint32_t>(args);
  if (all % 2 == 0) return copy_rows<uint16_t>(args);
  copy_rows<uint8_t>(args);
}

}  // namespace ops
