#include "adam.h"

#include <cmath>

#include "../../core/cuda.cuh"

namespace ops {

void adam(const AdamArgs& args) {
  const double step = static_cast<double>(args.step);
  const float keep_m = static_cast<float>(args.beta1), take_m = static_cast<float>(1 - args.beta1);
  const float keep_v = static_cast<float>(args.beta2), take_v = static_cast<float>(1 - args.beta2);
  const float rate = static_cast<float>(args.rate / (1 - std::pow(args.beta1, step)));
  const float root = static_cast<float>(std::sqrt(1 - std::pow(args.beta2, step))), eps = static_cast<float>(args.eps);
  each(args.n, [=] __device__(int64_t i) {
    const float g = args.gradient[i];
    const float m = args.m[i] = keep_m * args.m[i] + take_m * g;
    const float v = args.v[i] = keep_v * args.v[i] + take_v * (g * g);
    args.value[i] -= rate * (m / (sqrtf(v) / root + eps));
  });
}

}  // namespace ops
