/** alpha · op(a) · op(b), a and b row-major with `lda`, `ldb` columns as stored, op(a) [m, k], op(b) [k, n]. */
export const gemmReference = (
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  m: number,
  n: number,
  k: number,
  o: { lda: number; ldb: number; transposeA?: boolean; transposeB?: boolean; alpha?: number },
): Float64Array => {
  const out = new Float64Array(m * n)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let l = 0; l < k; l++) {
        sum += a[o.transposeA ? l * o.lda + i : i * o.lda + l]! * b[o.transposeB ? j * o.ldb + l : l * o.ldb + j]!
      }
      out[i * n + j] = (o.alpha ?? 1) * sum
    }
  }
  return out
}
