// Proxy error of a rounding, and its scale.
//
//   out[0] = tr((w−v)·h·(w−v)ᵀ)      out[1] = tr(w·h·wᵀ)
//
//   w, v  f32 [m, n]
//   h     f32 [n, n]   symmetric: only what is on and above the diagonal is read
//   out   f64 [2]      products in f32, traces summed in f64
//   cost  2·m·n² operations for both
//
// QuIP (arXiv:2307.13304) eq. 1; QTIP (arXiv:2406.11235) section 2.1.
#pragma once
#include "../../core/args.h"

namespace ops {

struct ProxyErrorArgs {
  const float* w;  // [m, n]
  const float* v;  // [m, n]
  const float* h;  // [n, n]
  double* out;     // [2]
  int64_t m, n;
  template <class V>
  void fields(V& v_) {
    v_("w", w), v_("v", v), v_("h", h), v_("out", out), v_("m", m), v_("n", n);
  }
};

void proxy_error(const ProxyErrorArgs& args);

}  // namespace ops
