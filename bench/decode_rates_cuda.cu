// What a chunk of a product with packed weights takes of a scheduler if nothing is loaded, without Node:
//
//   nvcc -std=c++20 -O3 -arch=sm_90 --expt-relaxed-constexpr bench/decode_rates_cuda.cu -o decode-rates
//   decode-rates
//
// The product's own `multiply_row` (native/codebooks/trellis/product_kernel.cuh) on words and parts of x that stand in registers, 24 warps of every
// multiprocessor; words change by an addition each, 2K a chunk, in place of loads. Printed: a scheduler's cycles for a chunk of 32 × 64 weights, by
// how much more 400 chunks of a warp take than 200.
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "../native/codebooks/trellis/product_kernel.cuh"
#include "replays.cuh"

using namespace ops::product;

namespace {

constexpr int kWarps = 24, kSchedulers = 4;

template <class Code, int K>
__global__ void __launch_bounds__(32 * kWarps, 1) chunks(const __grid_constant__ Args args, int count, uint32_t* out, int64_t* cycles) {
  using Sum = std::conditional_t<Code::bytes, int, float>;
  extern __shared__ __align__(16) unsigned char memory[];
  unsigned char* const shared = from_start<Code>(memory);
  for (int i = threadIdx.x; i < Code::table_bytes / 4; i += 32 * kWarps) reinterpret_cast<uint32_t*>(shared)[i] = 0;
  const Code code(args);
  Chunk<K> chunk;
#pragma unroll
  for (int i = 0; i < 2 * K; ++i) chunk.word[i] = threadIdx.x * 0x9E3779B9 + i * args.factor;
  uint4 x[1][Code::bytes ? 1 : 2];
#pragma unroll
  for (uint4& v : x[0]) v = uint4{threadIdx.x * 0x01010101, threadIdx.x * 0x3c003c, threadIdx.x * 0x11223344, threadIdx.x ^ 0x55};
  Sum d[2][1][4] = {};
  __syncthreads();
  const int64_t begin = clock64();
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
#pragma unroll
    for (int r = 0; r < 2; ++r) multiply_row<Code, K, true>(d[r], code, Stretch<K>(chunk.word + r * K), x);
#pragma unroll
    for (int word = 0; word < 2 * K; ++word) {
      chunk.word[word] += args.factor;
      asm volatile("" : "+r"(chunk.word[word]));
    }
    // As if loaded: spread anew for every chunk.
#pragma unroll
    for (uint4& v : x[0]) asm volatile("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w));
  }
  __syncthreads();
  const int64_t end = clock64();
  Sum all = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) all += d[i / 4][0][i % 4];
  reinterpret_cast<Sum*>(out)[blockIdx.x * 32 * kWarps + threadIdx.x] = all;
  if (threadIdx.x == 0) cycles[blockIdx.x] = end - begin;
}

template <class Code, int K>
double cycles(uint32_t factor, int sm) {
  Args args{};
  args.factor = factor, args.mask = 0x8fff8fff;
  for (int i = 0; i < 8; ++i) args.powers[i] = 1u << i;
  check(cudaFuncSetAttribute(chunks<Code, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, Code::table_bytes), "shared memory");
  uint32_t* const out = upload(std::vector<uint32_t>(sm * 32 * kWarps));
  const auto of = [&](int count) {
    return least_cycles(sm, 10, [&](int64_t* each) { chunks<Code, K><<<sm, 32 * kWarps, Code::table_bytes>>>(args, count, out, each); });
  };
  const double longer = of(400) - of(200);
  cudaFree(out);
  return longer / (200 * kWarps / kSchedulers);
}

template <class Code>
void row(const char* name, uint32_t factor, int sm, bool last) {
  std::printf("  {\"code\": \"%s\", \"2 bits\": %.0f, \"3 bits\": %.0f, \"4 bits\": %.0f}%s\n", name, cycles<Code, 2>(factor, sm), cycles<Code, 3>(factor, sm),
              cycles<Code, 4>(factor, sm), last ? "" : ",");
}

}  // namespace

int main() {
  return print_rows([](int sm) {
    row<Hyb<true>>("hyb", 2, sm, false), row<Bytes>("mul1", 0x83dcd12d, sm, false), row<Halves>("3inst", 89226354, sm, true);
  });
}
