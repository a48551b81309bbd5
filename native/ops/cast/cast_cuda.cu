#include "cast.h"

#include "../../core/cuda.cuh"
#include "../../core/error.h"
#include "../../core/half.h"

namespace ops {

namespace {

// Read and written by as few instructions as their bytes allow.
template <class T>
struct alignas(sizeof(T) < 2 ? 8 : 16) Eight {
  T of[8];
};

template <class From, class To, class F>
void map(const CastArgs& args, F convert) {
  const From* x = reinterpret_cast<const From*>(args.x) + args.first;
  To* out = reinterpret_cast<To*>(args.out);
  if (args.first % 8 != 0 || args.n % 8 != 0) return each(args.n, [x, out, convert] __device__(int64_t i) { out[i] = convert(x[i]); });
  const Eight<From>* eights = reinterpret_cast<const Eight<From>*>(x);
  Eight<To>* into = reinterpret_cast<Eight<To>*>(out);
  each(args.n / 8, [eights, into, convert] __device__(int64_t i) {
    const Eight<From> from = eights[i];
    Eight<To> to;
#pragma unroll
    for (int j = 0; j < 8; ++j) to.of[j] = convert(from.of[j]);
    into[i] = to;
  });
}

template <class From>
void widen(const CastArgs& args) {
  map<From, float>(args, [] __device__(From x) { return static_cast<float>(x); });
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
    case pair(f32, bf16): return map<float, uint16_t>(args, [] __device__(float x) { return f32_to_bf16(x); });
    case pair(f16, f64): return map<uint16_t, double>(args, [] __device__(uint16_t x) { return static_cast<double>(f16_to_f32(x)); });
    case pair(f16, f32): return map<uint16_t, float>(args, [] __device__(uint16_t x) { return f16_to_f32(x); });
    case pair(f16, bf16): return map<uint16_t, uint16_t>(args, [] __device__(uint16_t x) { return f32_to_bf16(f16_to_f32(x)); });
    case pair(bf16, f64): return map<uint16_t, double>(args, [] __device__(uint16_t x) { return static_cast<double>(bf16_to_f32(x)); });
    case pair(bf16, f32): return map<uint16_t, float>(args, [] __device__(uint16_t x) { return bf16_to_f32(x); });
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
