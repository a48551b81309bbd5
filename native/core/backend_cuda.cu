#include <cstdlib>

#include "error.h"
#include "machine_cuda.h"
#include "overlap.cuh"
#include "state_cuda.cuh"

namespace ops {

namespace {

constexpr const char* kWhatToSet = "Lower --memory, end other programs that use it, or take a larger card.";

// Asked what it was compiled for: the version of its PTX, also where the driver has made a newer card's machine code of that.
__global__ void any_kernel() {}

}  // namespace

thread_local Backend::State* current = nullptr;

static std::string device_name() { return current ? "cuda:" + std::to_string(current->number) : "the GPU"; }

void check(cudaError_t code) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // one that is not the device's end is reported once
  const char* what = cudaGetErrorString(code);
  const std::string device = device_name();
  switch (code) {
    case cudaErrorMemoryAllocation: {
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      cudaGetLastError();
      fail_with(kOutOfMemory, "out of device memory on %s: %.1f of %.1f MB are free. %s", device.c_str(), free / 1e6, total / 1e6, kWhatToSet);
    }
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorAssert:
    case cudaErrorLaunchFailure:
    case cudaErrorIllegalInstruction:
      fail("a kernel failed on %s (%s). This is a bug; with CUDA_LAUNCH_BLOCKING=1 the message names the op.", device.c_str(), what);
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorDeviceUninitialized:
    case cudaErrorUnknown:
      fail_with(kDeviceLost, "%s was lost (%s). nvidia-smi and the kernel's log (NVRM: Xid) tell why; it may need a reset or a reboot.", device.c_str(), what);
    case cudaErrorDevicesUnavailable:
      fail_with(kDeviceLost, "%s is busy or was lost (%s). nvidia-smi tells whether another program has it for itself.", device.c_str(), what);
    case cudaErrorNoKernelImageForDevice:
      fail("cuda.node has no kernels for %s. Build it with --CDPIPE_CUDA_ARCHITECTURES set to its compute capability.", device.c_str());
    default: fail("the CUDA runtime reports on %s: %s (%s)", device.c_str(), what, cudaGetErrorName(code));
  }
}

bool recording() { return current->recording != nullptr; }
cudaStream_t stream() { return current->capture ? current->capture : current->work; }
int multiprocessors() { return current->card.multiProcessorCount; }
bool card_overlaps() { return current->overlaps; }
static size_t shared_limit() { return current->card.sharedMemPerBlockOptin; }
void* borrow(size_t bytes) { return current->recording ? current->recording->borrow(bytes) : current->take(bytes, current->work); }
void give_back(void* data) {
  if (current->recording) current->recording->give_back(data);
  else cudaFreeAsync(data, current->work);
}

const float* constant(const std::string& name, const std::function<std::vector<float>()>& make) {
  float*& data = current->constants[name];
  if (data) return data;
  const std::vector<float> values = make();
  data = static_cast<float*>(current->take(values.size() * sizeof(float), current->work));
  check(cudaMemcpyAsync(data, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice, current->work));
  return data;
}

void allow_shared_bytes(const void* kernel, size_t bytes) {
  if (bytes > shared_limit()) fail("%.1f KB of shared memory are needed, and %s has %.1f", bytes / 1024.0, current->card.name, shared_limit() / 1024.0);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

Cublas& cublas() { return *current->cublas; }

Backend::State::State(int wanted) : number(wanted) {
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  card = expect_usable(number, expect_gpus());
  check(cudaSetDevice(number));
  cudaFuncAttributes kernel;
  check(cudaFuncGetAttributes(&kernel, any_kernel));
  overlaps = kernel.ptxVersion >= 90;
  check(cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking));
  check(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
  check(cudaStreamCreateWithFlags(&down, cudaStreamNonBlocking));
  for (Up* up : {&few, &many}) check(cudaEventCreateWithFlags(&up->copied, cudaEventDisableTiming));
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, number));
  uint64_t keep = UINT64_MAX;  // what was freed stays ours: asking the driver again costs 0.1–1 ms
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  int never = 0;  // an upload must not wait until the work stream is done with memory that it could be given
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowInternalDependencies, &never));
}

Backend::State::~State() {
  cudaSetDevice(number);
  {
    std::lock_guard lock(reading);
    over = true;
  }
  read.notify_all();
  if (reader.joinable()) reader.join();
  free_left();
  if (work) cudaStreamSynchronize(work);
  cublas.reset();
  for (cudaEvent_t event : marks) cudaEventDestroy(event);
  if (pinned) cudaFreeHost(pinned);
  for (const Span& span : spans) idle.insert(idle.end(), {span.begin, span.end});
  for (cudaEvent_t event : idle) cudaEventDestroy(event);
  for (const auto& [name, data] : constants) cudaFreeAsync(data, work);
  for (Up* up : {&few, &many}) {
    if (up->copied) cudaEventDestroy(up->copied);
  }
  if (copies) cudaStreamDestroy(copies);
  if (down) cudaStreamDestroy(down);
  if (work) cudaStreamDestroy(work);
}

// Memory in the order of a stream. When there is none: everything is finished, what lies idle goes back, once more.
void* Backend::State::take(size_t bytes, cudaStream_t on) {
  void* data = nullptr;
  cudaError_t code = cudaMallocAsync(&data, std::max<size_t>(bytes, 1), on);
  cudaMemPool_t pool;
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    free_left();
    check(cudaDeviceSynchronize());
    check(cudaDeviceGetDefaultMemPool(&pool, number));
    check(cudaMemPoolTrimTo(pool, 0));
    code = cudaMallocAsync(&data, std::max<size_t>(bytes, 1), on);
  }
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    cudaMemPoolTrimTo(pool, 0);  // a request that failed halfway leaves its half in the pool
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail_with(kOutOfMemory, "out of device memory on cuda:%d: %.1f MB are needed, %.1f of %.1f MB are free. %s", number, bytes / 1e6, free / 1e6,
              total / 1e6, kWhatToSet);
  }
  check(code);
  return data;
}

Backend::Backend(int number) : state_(std::make_unique<State>(number)) {}
Backend::~Backend() = default;

void Backend::enter() {
  check(cudaSetDevice(state_->number));
  current = state_.get();
}

// Nothing to do about an error in these three: the next op or read reports it, and times are only told to people.
cudaEvent_t Backend::State::mark() {
  std::lock_guard lock(timing);
  cudaEvent_t event = nullptr;
  if (idle.empty()) {
    cudaEventCreate(&event);
  } else {
    event = idle.back();
    idle.pop_back();
  }
  cudaEventRecord(event, work);
  return event;
}

void Backend::start(size_t op) {
  if (state_->some_left) state_->free_left();
  state_->begun = {op, state_->mark(), nullptr};
}

void Backend::stop() {
  state_->begun.end = state_->mark();
  std::lock_guard lock(state_->timing);
  state_->spans.push_back(state_->begun);
}

void Backend::known(bool all, const std::function<void(size_t, double)>& tell) {
  State& state = *state_;
  constexpr size_t kCalls = 64;  // asking an event costs as much as recording it
  std::lock_guard lock(state.timing);
  if (!all && ++state.calls % kCalls) return;
  while (!state.spans.empty()) {
    const auto [op, begin, end] = state.spans.front();
    float milliseconds = 0;
    const cudaError_t code = cudaEventElapsedTime(&milliseconds, begin, end);
    if (code != cudaSuccess) cudaGetLastError();
    if (code == cudaErrorNotReady) break;
    tell(op, milliseconds / 1e3);
    state.idle.insert(state.idle.end(), {begin, end});
    state.spans.pop_front();
  }
}

uint8_t* Backend::allocate(size_t bytes) { return static_cast<uint8_t*>(state_->take(bytes, state_->work)); }

Backend::Recording::~Recording() {
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(state.number);
  if (graph) cudaGraphExecDestroy(graph);  // one that runs is freed when it is done
  for (const auto& [data, bytes] : taken) cudaFreeAsync(data, state.work);
  cudaSetDevice(before);
}

void* Backend::Recording::borrow(size_t bytes) {
  const auto found = idle.lower_bound(bytes);
  void* data = nullptr;
  if (found != idle.end() && found->first <= 2 * bytes + 4096) {
    data = found->second;
    idle.erase(found);
  } else {
    data = state.take(bytes, state.work);
    taken.emplace(data, bytes);
  }
  return data;
}

void Backend::Recording::give_back(void* data) { idle.emplace(taken.at(data), data); }

// What ops launch goes into a graph, on a stream of its own: others may free and upload on the work stream meanwhile.
void Backend::Recording::capture_graph(const std::function<void()>& launch) {
  cudaStream_t on = nullptr;
  cudaGraph_t captured = nullptr;
  check(cudaStreamCreateWithFlags(&on, cudaStreamNonBlocking));
  try {
    check(cudaStreamBeginCapture(on, cudaStreamCaptureModeRelaxed));
    state.capture = on;
    launch();
    state.capture = nullptr;
    check(cudaStreamEndCapture(on, &captured));
    check(cudaGraphInstantiate(&graph, captured, 0));
  } catch (const std::exception& error) {
    if (state.capture) cudaStreamEndCapture(on, &captured);
    state.capture = nullptr;
    graph = nullptr;
    cudaGetLastError();
    why = error.what();
  }
  if (captured) cudaGraphDestroy(captured);
  cudaStreamDestroy(on);
}

// The first run makes what is made at first use; the second is captured, and that is launched from then on.
void Backend::replay(std::shared_ptr<Recording>& kept, const std::function<bool()>& each, const std::function<void()>& launch) {
  State& state = *state_;
  if (!kept) kept = std::make_shared<Recording>(state);
  const auto recorded = [&] {
    state.recording = kept.get();
    struct Over {
      State& state;
      ~Over() { state.recording = nullptr; }
    } over{state};
    if (!kept->warm) {
      kept->warm = each();
      return true;
    }
    if (!kept->graph && kept->why.empty()) kept->capture_graph(launch);
    if (!kept->graph) each();
    return !kept->graph;
  };
  if (kept->graph || !recorded()) check(cudaGraphLaunch(kept->graph, state.work));
}

std::string Backend::form(const Recording* kept) {
  if (!kept || (!kept->graph && kept->why.empty())) return "ops";
  return kept->graph ? "graph" : kept->why;
}

// A driver whose queue of launches is full keeps whoever calls it waiting, and the event loop has other devices to feed: what
// other threads give back is freed by the queue's, with its next op.
void Backend::free(uint8_t* data, size_t) {
  if (current == state_.get()) {
    cudaFreeAsync(data, state_->work);
    return;
  }
  std::lock_guard lock(state_->leaving);
  state_->left.push_back(data);
  state_->some_left = true;
}

// Nothing to do about an error here: the process is ending, or the next op reports the device's end.
void Backend::State::free_left() {
  std::lock_guard lock(leaving);
  for (uint8_t* data : left) cudaFreeAsync(data, work);
  left.clear();
  some_left = false;
}

std::map<std::string, std::string> Backend::texts() const {
  const cudaDeviceProp& card = state_->card;
  return {{"isa", "sm_" + std::to_string(card.major * 10 + card.minor)},
          {"blas", cublas_place().path.empty() ? "cuBLAS was not found in " + cublas_place().looked : cublas_place().path},
          {"card", card.name},
          {"driver", "CUDA " + cuda_version(state_->driver)},
          {"runtime", "CUDA " + cuda_version(state_->runtime)}};
}

std::map<std::string, double> Backend::numbers() const {
  size_t free = 0, total = 0;
  cudaSetDevice(state_->number);
  cudaMemGetInfo(&free, &total);
  cudaMemPool_t pool;
  uint64_t peak = 0;
  if (cudaDeviceGetDefaultMemPool(&pool, state_->number) == cudaSuccess) cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &peak);
  return {{"threads", state_->card.multiProcessorCount},
          {"freeBytes", static_cast<double>(free)},
          {"totalBytes", static_cast<double>(total)},
          {"takenBytes", static_cast<double>(peak)}};
}

}  // namespace ops
