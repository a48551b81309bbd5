#include "machine_cuda.h"

#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "cublas.h"
#include "cuda.cuh"
#include "error.h"
#include "machine.h"

namespace ops {

namespace {

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version;
}

// "80-real 90" holds machine code for 8.0 and 9.0, which also runs on later minor versions of the same major one;
// an entry without "-real" holds PTX too, which the driver compiles for whatever is newer.
bool kernels_for(const cudaDeviceProp& card) {
  std::stringstream list(PIPE_CUDA_ARCHITECTURES);
  const int own = card.major * 10 + card.minor;
  for (std::string entry; list >> entry;) {
    const int built = std::atoi(entry.c_str());
    const bool code = entry.find("-virtual") == std::string::npos, ptx = entry.find("-real") == std::string::npos;
    if ((code && built / 10 == card.major && built <= own) || (ptx && built <= own)) return true;
  }
  return false;
}

// The part of NVIDIA's management library that tells free memory without taking some for a context. It comes with the driver.
class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    int (*init)() = nullptr;
    find(init, "nvmlInit_v2");
    ready_ = init && init() == 0;
  }
  ~Nvml() {
    int (*shut_down)() = nullptr;
    find(shut_down, "nvmlShutdown");
    if (ready_ && shut_down) shut_down();
    if (library_) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::string release() const {
    int (*get)(char*, unsigned) = nullptr;
    char text[96] = "";
    find(get, "nvmlSystemGetDriverVersion");
    return ready_ && get && get(text, sizeof text) == 0 ? text : "";
  }

  // Bytes that are free, or NaN. A part of a card (MIG) has a memory that this call does not know.
  double free_bytes(int number, size_t total_bytes) const {
    int (*by_bus)(const char*, void**) = nullptr;
    int (*get)(void*, unsigned long long*) = nullptr;
    find(by_bus, "nvmlDeviceGetHandleByPciBusId_v2");
    find(get, "nvmlDeviceGetMemoryInfo");
    char bus[32] = "";
    void* device = nullptr;
    unsigned long long memory[3];  // total, free, used
    if (!ready_ || !by_bus || !get || cudaDeviceGetPCIBusId(bus, sizeof bus, number) != cudaSuccess) return NAN;
    if (by_bus(bus, &device) != 0 || get(device, memory) != 0 || memory[0] > total_bytes * 1.2) return NAN;
    return static_cast<double>(memory[1]);
  }

 private:
  template <class F>
  void find(F& function, const char* name) const {
    if (library_) function = reinterpret_cast<F>(dlsym(library_, name));
  }
  void* const library_;
  bool ready_ = false;
};

}  // namespace

std::string cuda_version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

int expect_gpus() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  cudaGetLastError();
  const int driver = driver_version(), needed = runtime_version() / 1000 * 1000;  // any minor version of the same major one will do
  if (driver == 0) fail("this machine has no NVIDIA driver (libcuda.so.1 was not found)");
  if (code == cudaErrorInsufficientDriver) {
    fail("the NVIDIA driver is too old: it serves CUDA %s, and %s is needed. Install a newer driver, or build with an older CUDA toolkit (12.0 or newer)",
         cuda_version(driver).c_str(), cuda_version(needed).c_str());
  }
  if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0)) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    if (visible) fail("the NVIDIA driver shows no GPU, with CUDA_VISIBLE_DEVICES=\"%s\"", visible);
    fail("the NVIDIA driver finds no GPU");
  }
  if (code == cudaErrorSystemDriverMismatch) fail("the NVIDIA driver's library and its kernel module are of different versions; a reboot loads the new one");
  check(code);
  return count;
}

cudaDeviceProp expect_usable(int number, int count) {
  if (number >= count && count == 1) fail("this machine has 1 GPU: cuda:0");
  if (number >= count) fail("this machine has %d GPUs: cuda:0 to cuda:%d", count, count - 1);
  cudaDeviceProp card;
  check(cudaGetDeviceProperties(&card, number));
  if (card.major < 8) fail("%s has compute capability %d.%d, and 8.0 is needed (A100, RTX 30 or newer)", card.name, card.major, card.minor);
  if (!kernels_for(card)) {
    fail("%s has compute capability %d.%d, and cuda.node was built for %s alone. Build it with --CDPIPE_CUDA_ARCHITECTURES=%d%d", card.name,
         card.major, card.minor, PIPE_CUDA_ARCHITECTURES, card.major, card.minor);
  }
  if (!card.memoryPoolsSupported) fail("%s, as this machine offers it, has no memory pools (cudaMallocAsync)", card.name);
  return card;
}

Machine survey(bool libraries) {
  Machine machine;
  auto& texts = machine.facts.texts;
  texts["architectures"] = PIPE_CUDA_ARCHITECTURES;
  texts["runtime"] = "CUDA " + cuda_version(runtime_version());
  if (const int driver = driver_version()) texts["driver"] = "CUDA " + cuda_version(driver);
  bool usable = false;
  try {
    const int count = expect_gpus();
    const Nvml nvml;
    if (!nvml.release().empty()) texts["release"] = nvml.release();
    for (int number = 0; number < count; ++number) {
      Facts& device = machine.devices.emplace_back();
      cudaDeviceProp card;
      if (cudaGetDeviceProperties(&card, number) == cudaSuccess) {
        device.texts["card"] = card.name;
        device.texts["isa"] = "sm_" + std::to_string(card.major * 10 + card.minor);
        device.numbers["threads"] = card.multiProcessorCount;
        device.numbers["totalBytes"] = static_cast<double>(card.totalGlobalMem);
        const double free = nvml.free_bytes(number, card.totalGlobalMem);
        if (!std::isnan(free)) device.numbers["freeBytes"] = free;
      }
      try {
        expect_usable(number, count);
        usable = true;
      } catch (const std::exception& error) {
        device.texts["reason"] = error.what();
      }
    }
  } catch (const std::exception& error) {
    texts["reason"] = error.what();
  }
  if (usable || libraries) {
    const CublasPlace place = cublas_place();
    texts[place.path.empty() ? "looked" : "blas"] = place.path.empty() ? place.looked : place.path;
  }
  return machine;
}

}  // namespace ops
