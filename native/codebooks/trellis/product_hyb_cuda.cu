#include "product_choice.cuh"

namespace ops::product {

template Choice choose<Hyb<true>>(int, bool, int, int);
template Choice choose<Hyb<false>>(int, bool, int, int);

}  // namespace ops::product
