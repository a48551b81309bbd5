export interface AttentionShape {
  heads: number
  kvHeads: number
  e: number
  length: number
  window?: number
  scale: number
  /** Rows of the sequence before the first query, and where they begin in k and v. */
  before?: number
  row?: number
}

/** out[i, h] = Σ_j softmax_j(scale·q[i, h]·k[j, h'])·v[j, h'] over keys j ≤ p = before + i of the sequence, p − j < window; h' = h/(heads/kvHeads). */
export const attentionReference = (q: ArrayLike<number>, k: ArrayLike<number>, v: ArrayLike<number>, s: AttentionShape): Float64Array => {
  const { heads, kvHeads, e, length, before = 0, row = 0, window = before + length, scale } = s
  const out = new Float64Array(q.length)
  for (let i = 0; i < q.length / (heads * e); i++) {
    const own = before + i
    const begin = Math.max(i - (i % length), own - window + 1)
    for (let h = 0; h < heads; h++) {
      const query = (i * heads + h) * e
      const key = (j: number): number => ((row + j) * kvHeads + Math.floor(h / (heads / kvHeads))) * e
      const scores = Array.from({ length: own + 1 - begin }, (_, j) => {
        let dot = 0
        for (let l = 0; l < e; l++) dot += q[query + l]! * k[key(begin + j) + l]!
        return Math.exp(scale * dot)
      })
      const sum = scores.reduce((a, b) => a + b, 0)
      for (const [j, score] of scores.entries()) {
        for (let l = 0; l < e; l++) out[query + l] = out[query + l]! + (score / sum) * v[key(begin + j) + l]!
      }
    }
  }
  return out
}
