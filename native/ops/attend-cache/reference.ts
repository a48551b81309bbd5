export interface AttendCacheShape {
  heads: number
  kvHeads: number
  e: number
  start: number
  window?: number
  scale: number
}

/** out[i, h] = Σ_j softmax_j(scale·q[i, h]·k[j, h'])·v[j, h'] over j ≤ start + i, start + i − j < window; h' = h/(heads/kvHeads). */
export const attendCacheReference = (
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  { heads, kvHeads, e, start, window = Number.POSITIVE_INFINITY, scale }: AttendCacheShape,
): Float64Array => {
  const out = new Float64Array(q.length)
  for (let row = 0; row < q.length / e; row++) {
    const position = start + Math.floor(row / heads)
    const keys = Array.from({ length: position + 1 }, (_, j) => j).filter(j => position - j < window)
    const at = (j: number): number => (j * kvHeads + Math.floor((row % heads) / (heads / kvHeads))) * e
    const scores = keys.map(j => {
      let dot = 0
      for (let l = 0; l < e; l++) dot += q[row * e + l]! * k[at(j) + l]!
      return scale * dot
    })
    const most = Math.max(...scores)
    const weights = scores.map(score => Math.exp(score - most))
    const sum = weights.reduce((a, b) => a + b, 0)
    for (const [i, j] of keys.entries()) for (let l = 0; l < e; l++) out[row * e + l]! += (weights[i]! / sum) * v[at(j) + l]!
  }
  return out
}
