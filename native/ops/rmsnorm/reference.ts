/** out[r, :] = x[r, :] / sqrt(mean(x[r, :]²) + eps) · weight, rows of weight's length. */
export const rmsnormReference = (x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): Float64Array => {
  const n = weight.length
  const out = new Float64Array(x.length)
  for (let r = 0; r < x.length; r += n) {
    let sum = 0
    for (let i = 0; i < n; i++) sum += x[r + i]! ** 2
    for (let i = 0; i < n; i++) out[r + i] = (x[r + i]! / Math.sqrt(sum / n + eps)) * weight[i]!
  }
  return out
}
