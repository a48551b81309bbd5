/** out[t, j] = x[t, j] + bias[j]. */
export const addBiasReference = (x: ArrayLike<number>, bias: ArrayLike<number>): Float64Array =>
  Float64Array.from({ length: x.length }, (_, i) => x[i]! + bias[i % bias.length]!)
