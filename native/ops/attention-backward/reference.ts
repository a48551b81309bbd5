import type { AttentionShape } from '../attention/reference.js'

/** The gradients by q, k and v of Σ dy·attention(q, k, v), by the definition in attention_backward.h. */
export const attentionBackwardReference = (
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  dy: ArrayLike<number>,
  s: AttentionShape,
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } => {
  const { heads, kvHeads, e, length, window = length, scale } = s
  const [dq, dk, dv] = [new Float64Array(q.length), new Float64Array(k.length), new Float64Array(v.length)]
  const dot = (a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number): number =>
    Array.from({ length: e }, (_, l) => a[i + l]! * b[j + l]!).reduce((sum, x) => sum + x, 0)
  const add = (into: Float64Array, i: number, factor: number, x: ArrayLike<number>, j: number): void => {
    for (let l = 0; l < e; l++) into[i + l] = into[i + l]! + factor * x[j + l]!
  }
  for (let i = 0; i < q.length / (heads * e); i++) {
    const begin = Math.max(i - (i % length), i - window + 1)
    for (let h = 0; h < heads; h++) {
      const query = (i * heads + h) * e
      const keys = Array.from({ length: i + 1 - begin }, (_, j) => ((begin + j) * kvHeads + Math.floor(h / (heads / kvHeads))) * e)
      const scores = keys.map(key => scale * dot(q, query, k, key))
      const weights = scores.map(score => Math.exp(score - Math.max(...scores)))
      const total = weights.reduce((sum, x) => sum + x, 0)
      const slopes = keys.map(key => dot(dy, query, v, key))
      const mean = slopes.reduce((sum, slope, j) => sum + (slope * weights[j]!) / total, 0)
      for (const [j, key] of keys.entries()) {
        const share = weights[j]! / total
        const slope = scale * share * (slopes[j]! - mean)
        add(dq, query, slope, k, key)
        add(dk, key, slope, q, query)
        add(dv, key, share, dy, query)
      }
    }
  }
  return { dq, dk, dv }
}
