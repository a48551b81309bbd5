/** factor · h[min(i, j), max(i, j)], h [n, n]. */
export const mirrorReference = (h: ArrayLike<number>, n: number, factor: number): Float64Array =>
  Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    return factor * h[Math.min(i, j) * n + Math.max(i, j)]!
  })
