#include "paste.h"

#include "../../core/cuda.cuh"

namespace ops {

void paste(const PasteArgs& args) {
  const auto& [x, into, x_offset, x_stride, into_offset, into_stride, rows, row_bytes] = args;
  if (rows <= 0 || row_bytes <= 0) return;
  const bool whole = rows == 1 || (x_stride == row_bytes && into_stride == row_bytes);
  if (whole) return check(cudaMemcpyAsync(into + into_offset, x + x_offset, rows * row_bytes, cudaMemcpyDeviceToDevice, stream()));
  check(cudaMemcpy2DAsync(into + into_offset, into_stride, x + x_offset, x_stride, row_bytes, rows, cudaMemcpyDeviceToDevice, stream()));
}

}  // namespace ops
