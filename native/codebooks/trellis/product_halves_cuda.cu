#include "product_choice.cuh"

namespace ops::product {

template Choice choose<Halves>(int, bool, int, int);

}  // namespace ops::product
