#include <dlfcn.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "blas.h"
#include "error.h"
#include "gemm_blocked.h"
#include "parallel.h"

namespace ops {

namespace {

// CBLAS's own numbers.
constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
// OpenBLAS itself runs on one thread, over tiles of C that depend on the sizes alone, so that results do not depend on the
// number of threads. Tiles of 1024 keep its repeated packing below a few per cent; smaller ones where C has few of them.
constexpr int64_t kTile = 1024, kLeastTile = 256, kPieces = 8;

const Blas* load(const std::string& path, std::string& reason) {
  static std::mutex mutex;
  static std::map<std::string, Blas> loaded;
  std::lock_guard lock(mutex);
  if (const auto found = loaded.find(path); found != loaded.end()) return &found->second;
  // OpenBLAS 0.3.21 does not know some AVX-512 machines and takes AVX2 kernels there: 253 instead of 470 GFLOP/s.
  if (detect_level() == Level::avx512) setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    reason = dlerror();
    return nullptr;
  }
  Blas blas;
  blas.path = path;
  blas.sgemm = reinterpret_cast<decltype(blas.sgemm)>(dlsym(library, "cblas_sgemm"));
  const auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
  if (!blas.sgemm || !set_threads) {
    reason = "it has no cblas_sgemm and openblas_set_num_threads";
    dlclose(library);
    return nullptr;
  }
  set_threads(1);
  return &loaded.emplace(path, blas).first->second;
}

}  // namespace

const Blas* detect_blas() {
  const char* wish = std::getenv("PIPE_OPENBLAS");
  std::string reason;
  if (wish && *wish) {
    if (std::strcmp(wish, "off") == 0) return nullptr;
    if (const Blas* blas = load(wish, reason)) return blas;
    fail("PIPE_OPENBLAS=%s cannot be used: %s. Unset it, or set it to \"off\" for the built-in GEMM.", wish, reason.c_str());
  }
  for (const char* path : {"libopenblas.so.0", "libopenblas.so"}) {
    if (const Blas* blas = load(path, reason)) return blas;
  }
  return nullptr;
}

void blas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
               int64_t ldb, float beta, float* c, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  const Blas* blas = context().blas;
  // CBLAS takes int sizes, and its beta = 0 is as ours: c is not read.
  if (!blas || k <= 0 || std::max({lda, ldb, ldc, k}) > INT_MAX) {
    return gemm_blocked(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
  int64_t side = kTile;
  while (side > kLeastTile && ((m + side - 1) / side) * ((n + side - 1) / side) < kPieces) side /= 2;
  const int64_t across = (n + side - 1) / side, down = (m + side - 1) / side;
  parallel_for(across * down, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile / across * side, j = tile % across * side;
      blas->sgemm(kRowMajor, transpose_a ? kTransposed : kPlain, transpose_b ? kTransposed : kPlain, std::min(side, m - i),
                  std::min(side, n - j), k, alpha, a + (transpose_a ? i : i * lda), lda, b + (transpose_b ? j * ldb : j), ldb, beta,
                  c + i * ldc + j, ldc);
    }
  });
}

}  // namespace ops
