// Chooses the kernel and shares out the workspace.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "trellis_cuda.cuh"

namespace ops {
namespace {

using trellis::Family;
using trellis::Launch;

struct Device { int multiprocessors, shared_bytes; };

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("trellis_encode: ") + what + ": " + cudaGetErrorString(error));
}

Device device() {
  int id = 0;
  Device d{};
  check(cudaGetDevice(&id), "no CUDA device");
  check(cudaDeviceGetAttribute(&d.multiprocessors, cudaDevAttrMultiProcessorCount, id), "reading the device");
  check(cudaDeviceGetAttribute(&d.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id), "reading the device");
  return d;
}

Launch plan(const TrellisEncodeCuda& a, const Device& d) {
  const auto require = [](bool good, const std::string& sentence) {
    if (!good) throw std::invalid_argument("trellis_encode: " + sentence);
  };
  require(a.L >= 1 && a.L <= 16, "L must be from 1 to 16, not " + std::to_string(a.L));
  require(a.KV >= 1 && a.KV <= 8 && a.KV <= a.L, "K·V must be from 1 to 8 and at most L, not " + std::to_string(a.KV));
  require(a.V == 1 || a.V == 2 || a.V == 4, "V must be 1, 2 or 4, not " + std::to_string(a.V));
  require(a.Tx >= 1 && a.Ty >= 1 && a.Tx <= 8192 && a.Ty <= 8192 && a.Tx * a.Ty <= 8192 && a.Tx * a.Ty % a.V == 0,
          "a tile must have a multiple of V weights, at most 8192, not " + std::to_string(a.Tx) + "×" + std::to_string(a.Ty));
  require(a.m >= 0 && a.m % a.Tx == 0, "rows must come in whole tiles of " + std::to_string(a.Tx) + ", not " + std::to_string(a.m));
  const int steps = static_cast<int>(a.Tx * a.Ty / a.V);
  // A path shorter than the state has bits that come round twice: start and end would overlap.
  require(steps * a.KV >= a.L, "a tile must have at least L bits: " + std::to_string(steps * a.KV) + " < " + std::to_string(a.L));
  Launch l{};
  l.z = a.z, l.table = a.table, l.codes = a.codes, l.values = a.values;
  l.workspace = static_cast<unsigned char*>(a.workspace);
  l.sequences = a.m / a.Tx;
  l.T = static_cast<int>(a.Tx * a.Ty), l.N = steps, l.L = static_cast<int>(a.L), l.KV = static_cast<int>(a.KV), l.V = static_cast<int>(a.V);
  l.limit = a.limit, l.multiprocessors = d.multiprocessors, l.stream = a.stream;
  return l;
}

const Family& choose(const TrellisEncodeCuda& a, const Launch& l, const Device& d) {
  const bool scalar = trellis::scalar_family.serves(l, d.shared_bytes);
  const bool hashed = a.hashed && trellis::hashed_family.serves(l, d.shared_bytes);
  switch (a.kernel) {
    case TrellisKernel::generic: break;
    case TrellisKernel::scalar:
      if (scalar) return trellis::scalar_family;
      throw std::invalid_argument("trellis_encode: the scalar kernel does not serve these sizes");
    case TrellisKernel::hashed:
      if (hashed) return trellis::hashed_family;
      throw std::invalid_argument("trellis_encode: the hashed kernel does not serve these sizes");
    case TrellisKernel::automatic:
      if (hashed) return trellis::hashed_family;
      if (scalar) return trellis::scalar_family;
  }
  return trellis::generic_family;
}

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

int useful_blocks(const Family& family, const Launch& l) {
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(family.blocks(l), l.sequences)));
}

}  // namespace

size_t trellis_encode_workspace(const TrellisEncodeCuda& args) {
  const Device d = device();
  const Launch l = plan(args, d);
  const Family& family = choose(args, l, d);
  return aligned(family.fixed_bytes(l)) + useful_blocks(family, l) * aligned(family.block_bytes(l));
}

void trellis_encode_cuda(const TrellisEncodeCuda& args) {
  const Device d = device();
  Launch l = plan(args, d);
  if (l.sequences == 0) return;
  const Family& family = choose(args, l, d);
  const size_t fixed = aligned(family.fixed_bytes(l)), each = aligned(family.block_bytes(l));
  if (args.workspace_bytes < fixed + each)
    throw std::invalid_argument("trellis_encode: the workspace has " + std::to_string(args.workspace_bytes) + " bytes, one block needs " +
                                std::to_string(fixed + each));
  const size_t fit = (args.workspace_bytes - fixed) / each;
  l.blocks = static_cast<int>(std::min<size_t>(useful_blocks(family, l), fit));
  check(family.run(l), "launch");
}

}  // namespace ops
