#include "cast.h"

#include "../../core/bf16.cuh"
#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "../../core/half.h"

namespace ops {

namespace {

template <class From, class To, class F>
void map(const CastArgs& args, F convert) {
  const From* x = reinterpret_cast<const From*>(args.x) + args.first;
  To* out = reinterpret_cast<To*>(args.out);
  each(args.n, [x, out, convert] __device__(int64_t i) { out[i] = convert(x[i]); });
}

template <class From>
void widen(const CastArgs& args) {
  map<From, float>(args, [] __device__(From x) { return static_cast<float>(x); });
}

// Between f32 and bf16, which whole caches are converted between: eight at a time where they are aligned.
bool eights(const CastArgs& args) { return args.first % kVector == 0 && args.n % kVector == 0; }
void to_bf16(const CastArgs& args) {
  if (!eights(args)) return map<float, uint16_t>(args, [] __device__(float x) { return f32_to_bf16(x); });
  const float* x = reinterpret_cast<const float*>(args.x) + args.first;
  uint4* out = reinterpret_cast<uint4*>(args.out);
  each(args.n / kVector, [x, out] __device__(int64_t i) {
    float v[kVector];
    load8(x + i * kVector, v);
    const auto both = [&](int l) { return f32_to_bf16(v[l]) | static_cast<uint32_t>(f32_to_bf16(v[l + 1])) << 16; };
    out[i] = {both(0), both(2), both(4), both(6)};
  });
}
void from_bf16(const CastArgs& args) {
  if (!eights(args)) return map<uint16_t, float>(args, [] __device__(uint16_t x) { return bf16_to_f32(x); });
  const uint16_t* x = reinterpret_cast<const uint16_t*>(args.x) + args.first;
  float* out = reinterpret_cast<float*>(args.out);
  each(args.n / kVector, [x, out] __device__(int64_t i) {
    float v[kVector];
    load8(x + i * kVector, v), store8(out + i * kVector, v);
  });
}

constexpr int pair(DType from, DType to) { return static_cast<int>(from) * 16 + static_cast<int>(to); }

}  // namespace

void cast(const CastArgs& args) {
  using enum DType;
  switch (args.from * 16 + args.to) {
    case pair(f64, f32): return widen<double>(args);
    case pair(f64, f16): return map<double, uint16_t>(args, [] __device__(double x) { return f32_to_f16(f64_to_f32_odd(x)); });
    case pair(f64, bf16): return map<double, uint16_t>(args, [] __device__(double x) { return f32_to_bf16(f64_to_f32_odd(x)); });
    case pair(f32, f64): return map<float, double>(args, [] __device__(float x) { return static_cast<double>(x); });
    case pair(f32, f16): return map<float, uint16_t>(args, [] __device__(float x) { return f32_to_f16(x); });
    case pair(f32, bf16): return to_bf16(args);
    case pair(f16, f64): return map<uint16_t, double>(args, [] __device__(uint16_t x) { return static_cast<double>(f16_to_f32(x)); });
    case pair(f16, f32): return map<uint16_t, float>(args, [] __device__(uint16_t x) { return f16_to_f32(x); });
    case pair(f16, bf16): return map<uint16_t, uint16_t>(args, [] __device__(uint16_t x) { return f32_to_bf16(f16_to_f32(x)); });
    case pair(bf16, f64): return map<uint16_t, double>(args, [] __device__(uint16_t x) { return static_cast<double>(bf16_to_f32(x)); });
    case pair(bf16, f32): return from_bf16(args);
    case pair(bf16, f16): return map<uint16_t, uint16_t>(args, [] __device__(uint16_t x) { return f32_to_f16(bf16_to_f32(x)); });
    case pair(i32, f32): return widen<int32_t>(args);
    case pair(i16, f32): return widen<int16_t>(args);
    case pair(u16, f32): return widen<uint16_t>(args);
    case pair(i8, f32): return widen<int8_t>(args);
    case pair(u8, f32): return widen<uint8_t>(args);
    default: fail("there is no conversion from type %d to type %d", args.from, args.to);
  }
}

}  // namespace ops
