// defines: transforms of many rows by instructions of warpgroups, for the file that compiles their kernels.
#pragma once
#include <cuda_fp16.h>

#include "prompt.h"

namespace ops::prompt {

struct RowTransform;
struct RowTransforms;

// Where rows before a product go: f16 as prompt_product.h has them, and the unit of each.
struct RowParts {
  __half* parts;
  float* units;
  int panel;
  bool natural;
};

// H as M ⊗ S with S along runs of w, as the kernel wants it: M is M of hadamard.h, and what of S is beyond. factor 0: no kernel.
struct RowShape {
  int factor, w;
  bool operator==(const RowShape&) const = default;
};
// inputs: rows of f32 that one is made of.
RowShape row_shape(int64_t n, int64_t block, int64_t factor, int64_t inputs);

RowTransform row_transform(const RowShape& shape, int64_t factor, bool transposed);
// One f16 number for each of x̃; its sums, too, are of f16 numbers.
void begin_rows(const RowTransform& in, int64_t t, const RowParts& to);
// Of outputs that have one shape.
void finish_rows(const RowTransforms& outputs, int count, int64_t t, const float* units, int pieces);

}  // namespace ops::prompt
