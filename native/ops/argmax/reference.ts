/** out[t] = the least j for which x[t, j] is the largest of its row; NaN is never the largest. */
export const argmaxReference = (x: ArrayLike<number>, v: number): Float64Array =>
  Float64Array.from({ length: x.length / v }, (_, t) => {
    const row = Array.from({ length: v }, (_, j) => x[t * v + j]!)
    const numbers = row.filter(z => !Number.isNaN(z))
    return Math.max(0, row.indexOf(Math.max(...numbers)))
  })
