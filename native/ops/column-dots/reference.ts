/** into[j] + Σ_t x[t, j]·y[t, j]; y left out: all 1. */
export const columnDotsReference = (into: ArrayLike<number>, x: ArrayLike<number>, y?: ArrayLike<number>): Float64Array => {
  const out = Float64Array.from(into)
  for (let i = 0; i < x.length; i++) out[i % out.length] = out[i % out.length]! + x[i]! * (y ? y[i]! : 1)
  return out
}
