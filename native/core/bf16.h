// defines: f32 views of arrays that are f32 or bf16, for CPU ops that compute in f32 whichever they are given.
#pragma once
#include <cstdint>
#include <vector>

namespace ops {

// What an op reads: an f32 array as it is, or a bf16 one widened.
class Widened {
 public:
  Widened(const uint8_t* data, int64_t n, bool bf16);
  operator const float*() const { return data_; }

 private:
  std::vector<float> values_;
  const float* data_;
};

// What an op writes: an f32 array itself, or values that are rounded into a bf16 one when this goes.
class Narrowing {
 public:
  Narrowing(uint8_t* data, int64_t n, bool bf16);
  ~Narrowing();
  Narrowing(const Narrowing&) = delete;
  Narrowing& operator=(const Narrowing&) = delete;
  operator float*() { return data_; }

 private:
  std::vector<float> values_;
  float* data_;
  uint16_t* into_ = nullptr;
};

}  // namespace ops
