#include "embed.h"

#include <cstring>

#include "../../core/error.h"
#include "../../core/half.h"
#include "../../core/parallel.h"

namespace ops {

void embed(const EmbedArgs& args) {
  const auto& [table, ids, out, t, v, bytes, widen] = args;
  for (int64_t i = 0; i < t; ++i) {
    if (ids[i] < 0 || ids[i] >= v) fail("token %lld is %d, and the table has %lld rows", (long long)i, ids[i], (long long)v);
  }
  parallel_for(t, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* row = table + ids[i] * bytes;
      if (!widen) std::memcpy(out + i * bytes, row, bytes);
      else for (int64_t j = 0; j < bytes / 2; ++j) reinterpret_cast<float*>(out)[i * bytes / 2 + j] = bf16_to_f32(reinterpret_cast<const uint16_t*>(row)[j]);
    }
  });
}

}  // namespace ops
