#include "bf16.h"

#include "half.h"
#include "parallel.h"

namespace ops {

constexpr int64_t kPiece = 1 << 18;  // elements: less is not worth a second thread

Widened::Widened(const uint8_t* data, int64_t n, bool bf16) : data_(reinterpret_cast<const float*>(data)) {
  if (!bf16) return;
  const auto* x = reinterpret_cast<const uint16_t*>(data);
  values_.resize(n);
  parallel_for(n, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values_[i] = bf16_to_f32(x[i]);
  });
  data_ = values_.data();
}

Narrowing::Narrowing(uint8_t* data, int64_t n, bool bf16) : data_(reinterpret_cast<float*>(data)) {
  if (!bf16) return;
  into_ = reinterpret_cast<uint16_t*>(data);
  values_.resize(n);
  data_ = values_.data();
}

Narrowing::~Narrowing() {
  if (!into_) return;
  parallel_for(values_.size(), kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) into_[i] = f32_to_bf16(values_[i]);
  });
}

}  // namespace ops
