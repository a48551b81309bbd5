// The trellis search over a few sequences at once: one sequence in each 16-bit lane of a vector.
//
//   g_t[k] = min over j < 2^KV of  g_{t-1}[s >> KV] + D_t[value of s],   s = j·G + k,   G = 2^(L-KV) groups
//
// D_t: what each distinct value of the code costs at step t, an integer made from integers, so that every instruction set
// agrees to the bit. A state costs one addition, whose operand is in memory, and one minimum. Costs have 16 bits; the low
// ones carry the j (or the 16th of the j's) they come from, so that a minimum is its own back-pointer. Sums saturate;
// the least cost is taken off every few steps.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ops::trellis {

// A code, prepared for the search: the same for all calls.
struct Code {
  int L, KV, steps;
  int bins;               // distinct values
  const int32_t* pairs;   // [bins][words] two int16: the value's components in fixed point
  const int32_t* norms;   // [bins] |value|² in fixed point
  const uint16_t* order;  // [2^L] bin of each state as the search meets them: [q][chunk of 16 j][k mod 2^KV][j]; times 8, unless wide
  int shift;              // cost = (norm + rest - 2·value·x) >> shift
  int words;              // pairs of components: 1, or 2 for V = 4
  bool symmetric;         // states s and 2^L - 1 - s have the same value: then so have paths and their complements

  int width() const { return L - KV; }  // bits of a group's number
  int64_t groups() const { return int64_t{1} << (L - KV); }
  // The costs of one step are overwritten by the next one's. For large KV there are few groups: they get two buffers.
  bool in_place() const { return KV <= 4 && width() - KV >= (KV == 1 ? 3 : KV == 2 ? 1 : 0); }
  // So many bins that 8·bin does not fit 16 bits: then only the narrowest vectors are used.
  bool wide() const { return bins > 8191; }
  // Bits of a cost that carry where it came from.
  int tag() const { return in_place() && KV <= 2 ? KV : 4; }
};

// What the lanes aim at, in fixed point. Rows are steps in the order of the sequence.
struct Targets {
  const int32_t* x;     // [steps][words][lanes] two int16: x, so that x·value counts twice in units of norms
  const int32_t* rest;  // [steps][lanes] |x|² less a bound below the least cost
};

// The code of one vector width.
struct Search {
  int lanes;
  int (*slot)(int lane);                 // where a row of Targets holds a lane (narrowing interleaves registers)
  size_t (*scratch)(const Code& code);   // bytes needed, aligned to 64
  // One pass over the steps first, first+1, … modulo `steps`. start: the group before it, a lane each; null: any.
  // end: the group after it; null: the best. states: [lane][steps], in the order of the pass, filled from `from` on.
  void (*pass)(const Code& code, const Targets& targets, int first, const uint16_t* start, const uint16_t* end, int from,
               void* scratch, uint16_t* states);
};

// Widths of one instruction set, widest first, ended by lanes = 0.
const Search* portable_searches();
const Search* avx2_searches();
const Search* avx512_searches();

// A code of one weight a step, searched in f32. Beyond 4 bits a weight costs span more than 16 bits hold: states are so few
// beside their values that a weight in the tail costs 10⁵ times what most do.
struct Fine {
  int L, KV, steps;
  const float* values;  // [2^L]
  const float* x;       // [steps]

  int64_t groups() const { return int64_t{1} << (L - KV); }
};
// One pass over the steps first, first+1, … modulo `steps`, between the groups start and end (-1: any, the best). states: in
// the order of the pass. costs: (steps + 1)·groups floats.
using FinePass = void (*)(const Fine& code, int first, int start, int end, float* costs, uint16_t* states);
FinePass portable_fine();
FinePass avx2_fine();
FinePass avx512_fine();

}  // namespace ops::trellis
