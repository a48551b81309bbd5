#include <exception>

#include "blas.h"
#include "cpu_features.h"
#include "machine.h"
#include "parallel.h"

namespace ops {

Machine survey(bool) {
  Machine machine;
  try {
    const Blas* blas = detect_blas();
    machine.facts.texts["blas"] = blas ? blas->path : "built-in";
    Facts device;
    device.texts["isa"] = name(detect_level());
    device.texts["blas"] = machine.facts.texts["blas"];
    device.numbers["threads"] = detect_threads();
    machine.devices.push_back(std::move(device));
  } catch (const std::exception& error) {
    machine.facts.texts["reason"] = error.what();
  }
  return machine;
}

}  // namespace ops
