// defines: ops::Level, the instruction sets that kernels are written for.
#pragma once

namespace ops {

enum class Level {
  portable,  // what the compiler's default target has
  avx2,      // AVX2, FMA, F16C
  avx512,    // AVX-512 F, BW, VL, DQ besides
};

// The best level of this machine; PIPE_ISA=portable|avx2|avx512 lowers it. Throws on another value or one that the machine lacks.
Level detect_level();

const char* name(Level level);

}  // namespace ops
