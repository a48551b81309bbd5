/** The lower Cholesky factor of h [n, n], f64; throws where a pivot is not positive. */
export const choleskyReference = (h: ArrayLike<number>, n: number): Float64Array => {
  const c = new Float64Array(n * n)
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = h[i * n + j]!
      for (let k = 0; k < j; k++) sum -= c[i * n + k]! * c[j * n + k]!
      if (i === j && !(sum > 0)) throw new RangeError(`pivot ${i} is ${sum}`)
      c[i * n + j] = i === j ? Math.sqrt(sum) : sum / c[j * n + j]!
    }
  }
  return c
}

/** Block LDLᵀ: l[r, J] = c[r, J]·c[J, J]⁻¹ for rows r below block J; 0 elsewhere. */
export const blockLdlReference = (h: ArrayLike<number>, n: number, b: number): Float64Array => {
  const [c, l] = [choleskyReference(h, n), new Float64Array(n * n)]
  for (let j0 = 0; j0 < n; j0 += b) {
    for (let r = j0 + b; r < n; r++) {
      for (let j = j0 + b - 1; j >= j0; j--) {
        // solves x·c[J, J] = c[r, J] from the last column
        let sum = c[r * n + j]!
        for (let k = j + 1; k < j0 + b; k++) sum -= l[r * n + k]! * c[k * n + j]!
        l[r * n + j] = sum / c[j * n + j]!
      }
    }
  }
  return l
}
