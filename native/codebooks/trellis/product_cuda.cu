// The ops trellis_arrange and trellis_product on a GPU.
#include "../../core/error.h"
#include "product.h"
#include "product_launch.cuh"
#include "product_operands.cuh"

namespace ops {

using namespace product;

void trellis_arrange(const TrellisArrangeArgs& a) {
  const int rows = static_cast<int>(a.rows), columns = static_cast<int>(a.columns), K = static_cast<int>(a.K);
  const int64_t size = (a.rows + kRows - 1) / kRows * (padded(columns) / 64) * 256 * K;
  arrange_kernel<<<blocks_for(size), kThreads, 0, stream()>>>(reinterpret_cast<const unsigned char*>(a.packed), a.arranged, size, rows, columns, K);
  launched();
}

void trellis_product(const TrellisProductArgs& a) {
  if (a.int8) fail("products in int8 are the CPU's");
  const Card here = card();
  for_code(static_cast<ProductCode>(a.code), a.entries, here, [&]<class Code>(Args args) {
    args.packed = reinterpret_cast<const uint32_t*>(a.arranged), args.m = static_cast<int>(a.rows), args.n = static_cast<int>(a.columns);
    const Parts<Code> parts(a.t, args.n, 1);
    // Not begun early: the product reads weights and table before it waits, which whoever wrote them has then left behind.
    prepare_kernel<Code><<<static_cast<unsigned>(a.t), 1024, 0, stream()>>>(a.x, parts.digits, parts.units, args.n);
    launched();
    multiply<Code>(args, static_cast<int>(a.K), !a.tensor_core, parts, a.y, here);
  });
}

}  // namespace ops
