/** out[t] = log Σ_j e^logits[t, j] − logits[t, targets[t]]; 0 where the target is −1. */
export const crossEntropyReference = (logits: ArrayLike<number>, targets: ArrayLike<number>): Float64Array => {
  const v = logits.length / targets.length
  return Float64Array.from({ length: targets.length }, (_, t) => {
    const row = Array.from({ length: v }, (_, j) => logits[t * v + j]!)
    const max = Math.max(...row)
    const logSum = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0))
    return targets[t]! < 0 ? 0 : logSum - row[targets[t]!]!
  })
}
