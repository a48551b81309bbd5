#include "product_choice.cuh"

namespace ops::product {

template Choice choose<Bytes>(int, bool, int, int);

}  // namespace ops::product
