#include "cpu_features.h"

#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "error.h"

namespace ops {

namespace {

Level machine_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  unsigned a, b, c, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);  // not every Clang can be asked for it by name
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return avx2 && avx512 ? Level::avx512 : avx2 ? Level::avx2 : Level::portable;
#else
  return Level::portable;
#endif
}

}  // namespace

const char* name(Level level) {
  return level == Level::avx512 ? "avx512" : level == Level::avx2 ? "avx2" : "portable";
}

Level detect_level() {
  const Level best = machine_level();
  const char* wish = std::getenv("PIPE_ISA");
  if (!wish || !*wish) return best;
  for (Level level : {Level::portable, Level::avx2, Level::avx512}) {
    if (std::strcmp(wish, name(level)) != 0) continue;
    if (level > best) fail("PIPE_ISA=%s, but this machine has only %s. Unset it.", wish, name(best));
    return level;
  }
  fail("PIPE_ISA is \"%s\"; it may be portable, avx2 or avx512.", wish);
}

}  // namespace ops
