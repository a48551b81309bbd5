#include "cast.h"

#include <cstring>

#include "../../core/error.h"
#include "../../core/half.h"
#include "../../core/parallel.h"

namespace ops {

namespace {

constexpr int64_t kPiece = 1 << 18;  // elements: less is not worth a second thread

// Applies `convert` to each element.
template <class From, class To, class F>
void map(const CastArgs& args, const F& convert) {
  const From* x = reinterpret_cast<const From*>(args.x) + args.first;
  To* out = reinterpret_cast<To*>(args.out);
  parallel_for(args.n, kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = convert(x[i]);
  });
}

// Applies an AVX2 kernel to pieces.
template <class From, class To>
void pieces(const CastArgs& args, void (*kernel)(const From*, To*, int64_t)) {
  const From* x = reinterpret_cast<const From*>(args.x) + args.first;
  To* out = reinterpret_cast<To*>(args.out);
  parallel_for(args.n, kPiece, [&](int64_t begin, int64_t end) { kernel(x + begin, out + begin, end - begin); });
}

template <class To, class F>
void from_f64(const CastArgs& args, const F& narrow) {
  map<double, To>(args, [&](double x) { return narrow(f64_to_f32_odd(x)); });
}

constexpr int pair(DType from, DType to) { return static_cast<int>(from) * 16 + static_cast<int>(to); }

}  // namespace

void cast(const CastArgs& args) {
  using enum DType;
#if defined(__x86_64__)
  const bool fast = context().level >= Level::avx2;
  if (fast && args.from == static_cast<int>(f16) && args.to == static_cast<int>(f32)) return pieces(args, f16_to_f32_avx2);
  if (fast && args.from == static_cast<int>(f32) && args.to == static_cast<int>(f16)) return pieces(args, f32_to_f16_avx2);
#endif
  switch (args.from * 16 + args.to) {
    case pair(f64, f32): return map<double, float>(args, [](double x) { return static_cast<float>(x); });
    case pair(f64, f16): return from_f64<uint16_t>(args, f32_to_f16);
    case pair(f64, bf16): return from_f64<uint16_t>(args, f32_to_bf16);
    case pair(f32, f64): return map<float, double>(args, [](float x) { return static_cast<double>(x); });
    case pair(f32, f16): return map<float, uint16_t>(args, f32_to_f16);
    case pair(f32, bf16): return map<float, uint16_t>(args, f32_to_bf16);
    case pair(f16, f64): return map<uint16_t, double>(args, [](uint16_t x) { return static_cast<double>(f16_to_f32(x)); });
    case pair(f16, f32): return map<uint16_t, float>(args, f16_to_f32);
    case pair(f16, bf16): return map<uint16_t, uint16_t>(args, [](uint16_t x) { return f32_to_bf16(f16_to_f32(x)); });
    case pair(bf16, f64): return map<uint16_t, double>(args, [](uint16_t x) { return static_cast<double>(bf16_to_f32(x)); });
    case pair(bf16, f32): return map<uint16_t, float>(args, bf16_to_f32);
    case pair(bf16, f16): return map<uint16_t, uint16_t>(args, [](uint16_t x) { return f32_to_f16(bf16_to_f32(x)); });
    case pair(i32, f32): return map<int32_t, float>(args, [](int32_t x) { return static_cast<float>(x); });
    case pair(i16, f32): return map<int16_t, float>(args, [](int16_t x) { return static_cast<float>(x); });
    case pair(u16, f32): return map<uint16_t, float>(args, [](uint16_t x) { return static_cast<float>(x); });
    case pair(i8, f32): return map<int8_t, float>(args, [](int8_t x) { return static_cast<float>(x); });
    case pair(u8, f32): return map<uint8_t, float>(args, [](uint8_t x) { return static_cast<float>(x); });
    default: fail("there is no conversion from type %d to type %d", args.from, args.to);
  }
}

}  // namespace ops
