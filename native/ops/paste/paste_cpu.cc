#include "paste.h"

#include <cstring>

#include "../../core/parallel.h"

namespace ops {

namespace {
constexpr int64_t kPiece = 1 << 20;  // bytes: less is not worth a second thread
}

void paste(const PasteArgs& args) {
  const auto& [x, into, x_offset, x_stride, into_offset, into_stride, rows, row_bytes] = args;
  if (rows <= 0 || row_bytes <= 0) return;
  if (rows == 1 || (x_stride == row_bytes && into_stride == row_bytes)) {
    parallel_for(rows * row_bytes, kPiece, [&](int64_t begin, int64_t end) {
      std::memcpy(into + into_offset + begin, x + x_offset + begin, end - begin);
    });
    return;
  }
  parallel_for(rows, std::max<int64_t>(1, kPiece / row_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(into + into_offset + i * into_stride, x + x_offset + i * x_stride, row_bytes);
  });
}

}  // namespace ops
