// defines: what opening a GPU and looking at the machine have in common: the checks, each with its sentence.
#pragma once
#include <cuda_runtime.h>

#include <string>

namespace ops {

// 13000 → "13.0".
std::string cuda_version(int number);

// How many GPUs there are, at least 1. Throws a sentence that says why there is none: no driver, too old a driver, nothing shown.
int expect_gpus();

// The properties of this GPU. Throws a sentence when it is not there, or when these kernels do not run on it.
cudaDeviceProp expect_usable(int number, int count);

}  // namespace ops
