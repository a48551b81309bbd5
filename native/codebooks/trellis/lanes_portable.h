// defines: Portable8, the vectors of search_kernel.h in the compiler's own vector types.
#pragma once
#include <cstdint>

namespace ops::trellis {
namespace {

struct Portable8 {
  typedef uint16_t T __attribute__((vector_size(16)));
  typedef int32_t Wide __attribute__((vector_size(16)));
  static constexpr int lanes = 8;
  static int slot(int lane) { return lane; }
  static T load(const uint16_t* p) { return *reinterpret_cast<const T*>(p); }
  static Wide load32(const int32_t* p) { return *reinterpret_cast<const Wide*>(p); }
  static void store(uint16_t* p, T a) { *reinterpret_cast<T*>(p) = a; }
  static void stream(uint16_t* p, T a) { store(p, a); }
  static void fence() {}
  static T set(int a) { return T{} + uint16_t(a); }
  static T add(T a, T b) { const T sum = a + b; return sum | T(sum < a); }
  static T sub(T a, T b) { return (a - b) & T(a >= b); }
  static T min(T a, T b) { return a - sub(a, b); }
  static T both(T a, T b) { return a & b; }
  static T shift_left(T a, int n) { return a << n; }
  static T select(T mask, T a, T b) { return (a & mask) | (b & ~mask); }
  static T choose_less(T a, T b, T yes, T no) { return select(T(a < b), yes, no); }
  static Wide error(Wide x, Wide rest, int32_t pair, int32_t norm) {
    return rest + norm - ((x << 16) >> 16) * int32_t(int16_t(pair)) - (x >> 16) * (pair >> 16);
  }
  static Wide shift_right(Wide a, int n) { return a >> n; }
  static T narrow(Wide a, Wide b) {
    T out{};
    for (int i = 0; i < 4; ++i) {
      out[i] = uint16_t(a[i] < 0 ? 0 : a[i] > 0xffff ? 0xffff : a[i]);
      out[i + 4] = uint16_t(b[i] < 0 ? 0 : b[i] > 0xffff ? 0xffff : b[i]);
    }
    return out;
  }
};

}  // namespace
}  // namespace ops::trellis
