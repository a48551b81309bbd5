// defines: ops::hadamard_matrix, the Hadamard matrices of order 12 … 172 that are no power of two.
//
//   Paley I      12, 20, 60, 108, 140      from the quadratic residues modulo K − 1
//   Paley II     28, 36                    from those modulo K/2 − 1
//   Williamson   52, 116, 124, 156, 172    from four symmetric circulants of order K/4
//
// The same matrices as in the tables of QuIP#'s and QTIP's code (N. Sloane's library), generated.
#pragma once
#include <cstdint>
#include <vector>

#include "../../core/error.h"

namespace ops {

// Legendre's symbol modulo the prime q, for 0 … q − 1: 1 for squares, −1 for others, 0 for 0.
inline std::vector<int> legendre(int64_t q) {
  std::vector<int> symbol(q, -1);
  symbol[0] = 0;
  for (int64_t i = 1; i < q; ++i) symbol[i * i % q] = 1;
  return symbol;
}

// M [order, order], row-major, entries ±1, M·Mᵀ = order·I.
inline std::vector<float> hadamard_matrix(int64_t order) {
  std::vector<float> matrix(order * order, 1);
  const auto at = [&](int64_t i, int64_t j) -> float& { return matrix[i * order + j]; };
  switch (order) {
    case 1:
      return matrix;
    case 12: case 20: case 60: case 108: case 140: {
      const int64_t q = order - 1;
      const std::vector<int> symbol = legendre(q);
      for (int64_t j = 1; j < order; ++j) at(0, j) = -1;
      for (int64_t i = 1; i < order; ++i) {
        for (int64_t j = 1; j < order; ++j) at(i, j) = i == j ? 1 : symbol[(i - j + q) % q];
      }
      return matrix;
    }
    case 28: case 36: {  // [[P, P − 2I], [P − 2I, −P]]
      const int64_t half = order / 2, q = half - 1;
      const std::vector<int> symbol = legendre(q);
      for (int64_t i = 0; i < order; ++i) {
        for (int64_t j = 0; j < order; ++j) {
          const int64_t r = i % half, c = j % half;
          const float p = r == 0 || c == 0 || r == c ? 1 : symbol[(c - r + q) % q];
          at(i, j) = (i < half) == (j < half) ? (i < half ? p : -p) : (r == c ? p - 2 : p);
        }
      }
      return matrix;
    }
    default: break;
  }
  // First rows of A, B, C, D as numbers of order/4 bits; the highest bit is column 0, a set bit +1.
  struct Williamson {
    int64_t order;
    uint64_t rows[4];
  };
  static constexpr Williamson tables[] = {
      {52, {0x14f2, 0x11f8, 0x1a65, 0x1090}},
      {116, {0x192ef749, 0x1ed1f8b7, 0x1465fa62, 0x1c650a63}},
      {124, {0x4e90c25c, 0x4e90c25c, 0x41d4cae0, 0x7e2b351f}},
      {156, {0x7282619053, 0x7898528647, 0x73452128b3, 0x46a0edc158}},
      {172, {0x467aecdd798, 0x6fc29b650fd, 0x7595e85ea6b, 0x63d260192f1}},
  };
  static constexpr int which[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
  static constexpr int sign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
  for (const Williamson& table : tables) {
    if (table.order != order) continue;
    const int64_t c = order / 4;
    for (int64_t i = 0; i < order; ++i) {
      for (int64_t j = 0; j < order; ++j) {
        const int64_t bit = c - 1 - (j % c - i % c + c) % c;
        at(i, j) = sign[i / c][j / c] * (table.rows[which[i / c][j / c]] >> bit & 1 ? 1.f : -1.f);
      }
    }
    return matrix;
  }
  fail("there is no Hadamard matrix of order %ld here", static_cast<long>(order));
}

}  // namespace ops
