// defines: ops::survey, what this addon finds on the machine. Opens no device, takes no memory of one, never throws.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace ops {

struct Facts {
  std::map<std::string, std::string> texts;
  std::map<std::string, double> numbers;
};

// texts, where they are known:
//   reason         why there is no device, a sentence without its full stop
//   architectures  what the addon's kernels are compiled for
//   driver, runtime  "CUDA 13.0": what the driver serves, what the addon is made with; release: of the driver, "580.95.05"
//   blas           path of the library for products of matrices, or "built-in"
//   looked         where that library was looked for, when it was not found
struct Machine {
  Facts facts;
  std::vector<Facts> devices;  // as Backend::texts and numbers; `reason`: why this one cannot be used
};

// `libraries`: look for those of the devices even where there is no device that would use them.
Machine survey(bool libraries);

}  // namespace ops
