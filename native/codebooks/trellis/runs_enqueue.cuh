// defines: enqueue_chain, enqueue_digits, enqueue_finish: which kernels do what is between two products (runs.cuh's Plan says).
#pragma once
#include "row_kernel.cuh"
#include "rows_kernel.cuh"
#include "runs_kernel.cuh"

namespace ops::product {

template <int W>
cudaError_t enqueue_run(const Chain& c, const Plan& plan, int inputs, bool finish, dim3 grid, cudaStream_t stream) {
  const auto with = [&](auto kernel) {
    const int bytes = Room(plan.cut, inputs, plan.share, plan.all).bytes;
    return launch_clusters(kernel, grid, plan.threads, bytes, stream, true, finish || plan.all ? kCluster : 1, c);
  };
  const auto to = [&]<End end>(std::integral_constant<End, end>) {
    if (inputs == 1) return with(finish ? chain_kernel<W, 1, true, end> : chain_kernel<W, 1, false, end>);
    return with(finish ? chain_kernel<W, 2, true, end> : chain_kernel<W, 2, false, end>);
  };
  return plan.all ? to(std::integral_constant<End, End::digits>{}) : to(std::integral_constant<End, End::along>{});
}

// f of runs' length as a constant.
cudaError_t for_run(int w, auto f) {
  switch (w) {
    case 64: return f(std::integral_constant<int, 64>{});
    case 128: return f(std::integral_constant<int, 128>{});
    case 256: return f(std::integral_constant<int, 256>{});
    case 512: return f(std::integral_constant<int, 512>{});
    default: return f(std::integral_constant<int, 1024>{});
  }
}

inline cudaError_t enqueue_chain(const Chain& c, const Plan& plan, int inputs, int64_t t, cudaStream_t stream) {
  const bool finish = c.of[0].x == nullptr;
  if (plan.row) return enqueue_row(c, finish, t, stream);
  const dim3 grid(plan.clusters * kCluster, static_cast<unsigned>(t));
  return for_run(plan.cut.w, [&]<int W>(std::integral_constant<int, W>) {
    if constexpr (W <= 128) {
      if (finish && t > 1 && Rows<W>::fits(plan)) return enqueue_rows<W>(c, plan, inputs, t, stream);
    }
    return enqueue_run<W>(c, plan, inputs, finish, grid, stream);
  });
}

// Several that are finished only, all of runs of one length, or rows of one.
inline cudaError_t enqueue_finish(const Chains& chains, const Plan* plans, int count, int64_t t, cudaStream_t stream) {
  if (plans[0].row) return enqueue_finish_rows(chains, count, t, stream);
  int threads = 0, clusters = 0, bytes = 0;
  for (int i = 0; i < count; ++i) {
    threads = std::max(threads, plans[i].threads), clusters = std::max(clusters, plans[i].clusters);
    bytes = std::max(bytes, Room(plans[i].cut, 1, plans[i].share, false).bytes);
  }
  const dim3 grid(clusters * kCluster, static_cast<unsigned>(t), count);
  return for_run(plans[0].cut.w, [&]<int W>(std::integral_constant<int, W>) {
    return launch_clusters(finish_kernel<W>, grid, threads, bytes, stream, true, kCluster, chains);
  });
}

inline cudaError_t enqueue_digits(const Digits& to, const float* v, const float2* sums, const Plan& plan, int64_t t, cudaStream_t stream) {
  const int threads = std::max(128, 32 * plan.cut.splits() * plan.groups);
  const dim3 grid(plan.slots, static_cast<unsigned>(t));
  return ops::launch(digits_kernel, grid, threads, digits_bytes(plan.cut, plan.groups), stream, true, to, v, sums, plan.cut, plan.sums(), plan.groups);
}

}  // namespace ops::product
