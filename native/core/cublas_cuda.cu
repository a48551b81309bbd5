#include "cublas.h"

#include <dlfcn.h>
#include <glob.h>

#include <climits>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <vector>

#include "cuda.cuh"
#include "error.h"

namespace ops {

namespace {

// cuBLAS's own numbers.
constexpr int kPlain = 0, kTransposed = 1, kF32 = 0, kF16 = 2, kBf16 = 14, kComputeF32 = 68, kDefaultAlgorithm = -1, kNoMemory = 3;
// The default, but that sums in parts are never added up in 16 bits.
constexpr int kMath = 16;
// Bytes: what cuBLAS takes itself on Hopper; given, so that a result never depends on what is free.
constexpr size_t kWorkspace = 32 << 20;

struct Library {
  std::string path;  // empty: not found
  std::string looked;  // where it was looked for
  int (*create)(void**) = nullptr;
  int (*destroy)(void*) = nullptr;
  int (*set_stream)(void*, cudaStream_t) = nullptr;
  int (*set_math)(void*, int) = nullptr;
  int (*set_workspace)(void*, void*, size_t) = nullptr;
  int (*sgemm)(void*, int, int, int, int, int, const float*, const float*, int,
               const float*, int, const float*, float*, int) = nullptr;
  int (*gemm_ex)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int, const void*, void*, int, int, int,
                 int) = nullptr;
  const char* (*text)(int) = nullptr;
};

void split(const char* list, std::vector<std::string>& into, const std::string& suffix = "") {
  std::stringstream stream(list ? list : "");
  for (std::string part; std::getline(stream, part, ':');) {
    if (!part.empty()) into.push_back(part + suffix);
  }
}

// Folders that may hold it, best first; "" is the loader's own path. Patterns as of a shell. What PIPE_CUDA_LIBS names is
// meant, so nothing else will do.
std::vector<std::string> folders() {
  std::vector<std::string> list;
  split(std::getenv("PIPE_CUDA_LIBS"), list);
  if (!list.empty()) return list;
  list.push_back("");
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) split(std::getenv(name), list, "/lib64");
  list.insert(list.end(), {"/usr/local/cuda/lib64", "/usr/local/cuda-*/lib64"});
  // A Python that is on the PATH, and the system's, may have the wheels nvidia-cublas, nvidia-cublas-cu12.
  std::vector<std::string> prefixes;
  split(std::getenv("PATH"), prefixes, "/../lib/python3*/site-packages");
  prefixes.insert(prefixes.end(), {"/usr/lib/python3/dist-packages", "/usr/local/lib/python3*/dist-packages"});
  split(std::getenv("HOME"), prefixes, "/.local/lib/python3*/site-packages");
  for (const std::string& prefix : prefixes) {
    for (const char* wheel : {"/nvidia/cu13/lib", "/nvidia/cublas/lib"}) list.push_back(prefix + wheel);
  }
  return list;
}

bool load(const std::string& path, Library& library) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return false;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    return function != nullptr;
  };
  if (find(library.create, "cublasCreate_v2") && find(library.destroy, "cublasDestroy_v2") && find(library.set_stream, "cublasSetStream_v2") &&
      find(library.set_math, "cublasSetMathMode") && find(library.set_workspace, "cublasSetWorkspace_v2") &&
      find(library.sgemm, "cublasSgemm_v2") && find(library.gemm_ex, "cublasGemmEx") &&
      find(library.text, "cublasGetStatusString")) {
    library.path = path;
    return true;
  }
  dlclose(handle);
  return false;
}

const Library& library() {
  static const Library found = [] {
    Library library;
    for (const std::string& folder : folders()) {
      std::vector<std::string> places;
      if (folder.empty()) {
        places.push_back("");
      } else {
        glob_t matches{};
        if (glob(folder.c_str(), 0, nullptr, &matches) == 0) {
          for (size_t i = 0; i < matches.gl_pathc; ++i) places.push_back(std::string(matches.gl_pathv[i]) + "/");
        }
        globfree(&matches);
        if (places.empty() && std::getenv("PIPE_CUDA_LIBS")) library.looked += (library.looked.empty() ? "" : ", ") + folder + " (no such folder)";
      }
      for (const std::string& place : places) {
        library.looked += (library.looked.empty() ? "" : ", ") + (place.empty() ? "the loader's path" : place);
        for (const char* name : {"libcublas.so.13", "libcublas.so.12"}) {
          if (load(place + name, library)) return library;
        }
      }
    }
    return library;
  }();
  return found;
}

void check_status(int status) {
  if (status == kNoMemory) fail_with(kOutOfMemory, "out of device memory in cuBLAS. Lower --memory, or give the device to this program alone.");
  if (status != 0) fail("cuBLAS (%s) reports: %s", library().path.c_str(), library().text(status));
}

}  // namespace

CublasPlace cublas_place() { return {library().path, library().looked}; }

std::string cublas_missing() {
  const char* named = std::getenv("PIPE_CUDA_LIBS");
  return "cuBLAS is needed and was not found (libcublas.so.13 or .12). Looked in: " + library().looked + ". " +
         (named && *named ? "Unset PIPE_CUDA_LIBS, or set it to the folder of the library."
                          : "Install the CUDA toolkit or the Python wheel nvidia-cublas, or name its folder in PIPE_CUDA_LIBS.");
}

Cublas::~Cublas() {
  if (handle_) library().destroy(handle_);
  if (workspace_) cudaFree(workspace_);
}

void* Cublas::handle() {
  const Library& found = library();
  if (handle_ && stream_ == stream()) return handle_;
  if (handle_) {
    use(stream());
    return handle_;
  }
  if (found.path.empty()) throw std::runtime_error(cublas_missing());
  if (!workspace_) check(cudaMalloc(&workspace_, kWorkspace));  // first: a handle without it would take one of its own
  check_status(found.create(&handle_));
  check_status(found.set_math(handle_, kMath));
  use(stream());
  return handle_;
}

// A change of streams takes the workspace away.
void Cublas::use(void* stream) {
  check_status(library().set_stream(handle_, static_cast<cudaStream_t>(stream)));
  check_status(library().set_workspace(handle_, workspace_, kWorkspace));
  stream_ = stream;
}

static void check_sizes(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc) {
  if (std::max({m, n, k, lda, ldb, ldc}) > INT_MAX) fail("a matrix product of [%ld, %ld] by [%ld, %ld] is beyond cuBLAS's sizes", m, k, k, n);
}

void cublas_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b,
                 int64_t ldb, float beta, float* c, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  check_sizes(m, n, k, lda, ldb, ldc);
  void* const handle = cublas().handle();
  // cuBLAS is column-major: it makes cᵀ = op(b)ᵀ · op(a)ᵀ.
  check_status(library().sgemm(handle, transpose_b ? kTransposed : kPlain, transpose_a ? kTransposed : kPlain, n, m, k, &alpha, b,
                               std::max<int64_t>(ldb, 1), a, std::max<int64_t>(lda, 1), &beta, c, ldc));
}

// Both of 16 bits, of cuBLAS's type `type`.
static void gemm_of_halves(int type, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const uint16_t* a, int64_t lda,
                           const uint16_t* b, int64_t ldb, float beta, void* c, int c_type, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  check_sizes(m, n, k, lda, ldb, ldc);
  void* const handle = cublas().handle();
  check_status(library().gemm_ex(handle, transpose_b ? kTransposed : kPlain, transpose_a ? kTransposed : kPlain, n, m, k, &alpha, b, type,
                                 std::max<int64_t>(ldb, 1), a, type, std::max<int64_t>(lda, 1), &beta, c, c_type, ldc, kComputeF32, kDefaultAlgorithm));
}

void cublas_gemm_bf16(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const uint16_t* a, int64_t lda,
                      const uint16_t* b, int64_t ldb, float beta, uint8_t* c, bool c_is_bf16, int64_t ldc) {
  gemm_of_halves(kBf16, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, c_is_bf16 ? kBf16 : kF32, ldc);
}

void cublas_gemm_f16(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const uint16_t* a, int64_t lda,
                     const uint16_t* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  gemm_of_halves(kF16, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, kF32, ldc);
}

}  // namespace ops
