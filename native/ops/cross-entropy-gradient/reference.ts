/** loss[t] = −Σ_k weights[t, k]·log softmax(logits[t])[targets[t, k]], −1 being no label, and factor · ∂Σloss/∂logits. */
export const crossEntropyGradientReference = (
  logits: ArrayLike<number>,
  targets: ArrayLike<number>,
  weights: ArrayLike<number>,
  t: number,
  factor: number,
): { loss: Float64Array; gradient: Float64Array } => {
  const [v, k] = [logits.length / t, targets.length / t]
  const [loss, gradient] = [new Float64Array(t), new Float64Array(t * v)]
  for (let i = 0; i < t; i++) {
    const row = Array.from({ length: v }, (_, j) => logits[i * v + j]!)
    const max = Math.max(...row)
    const sum = row.reduce((all, x) => all + Math.exp(x - max), 0)
    for (let l = i * k; l < (i + 1) * k; l++) {
      const target = targets[l]!
      if (target < 0) continue
      loss[i] = loss[i]! + weights[l]! * (max + Math.log(sum) - row[target]!)
      for (let j = 0; j < v; j++) {
        const slope = Math.exp(row[j]! - max) / sum - (j === target ? 1 : 0)
        gradient[i * v + j] = gradient[i * v + j]! + factor * weights[l]! * slope
      }
    }
  }
  return { loss, gradient }
}
