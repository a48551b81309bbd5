export interface AttendCacheShape {
  heads: number
  kvHeads: number
  e: number
  capacity: number
  window?: number
  scale: number
}
type Rows = { q: ArrayLike<number>; k: ArrayLike<number>; v: ArrayLike<number>; slots: ArrayLike<number>; positions: ArrayLike<number> }
type Cache = { keys: Float64Array; values: Float64Array; cos: ArrayLike<number>; sin: ArrayLike<number> }

/** keys[s, p] = R(p)·k, values[s, p] = v; out[i, h] = Σ_j softmax_j(scale·R(p)q[i, h]·keys[s, j, h'])·values[s, j, h'], p − window < j ≤ p. */
export const attendCacheReference = ({ q, k, v, slots, positions }: Rows, cache: Cache, o: AttendCacheShape): Float64Array => {
  const { heads, kvHeads, e, capacity, window = Number.POSITIVE_INFINITY, scale } = o
  const out = new Float64Array(q.length)
  const turned = (x: ArrayLike<number>, at: number, p: number, l: number): number => {
    const angle = (p * e) / 2 + (l % (e / 2))
    const other = l < e / 2 ? -x[at + l + e / 2]! : x[at + l - e / 2]!
    return x[at + l]! * cache.cos[angle]! + other * cache.sin[angle]!
  }
  const place = (i: number, j: number, head: number): number => ((slots[i]! * capacity + j) * kvHeads + head) * e
  for (let i = 0; i < slots.length; i++)
    for (let head = 0; head < kvHeads; head++)
      for (let l = 0; l < e; l++) {
        cache.keys[place(i, positions[i]!, head) + l] = turned(k, (i * kvHeads + head) * e, positions[i]!, l)
        cache.values[place(i, positions[i]!, head) + l] = v[(i * kvHeads + head) * e + l]!
      }
  for (let i = 0; i < slots.length; i++)
    for (let h = 0; h < heads; h++) {
      const p = positions[i]!
      const [at, kv] = [(i * heads + h) * e, Math.floor(h / (heads / kvHeads))]
      const seen = Array.from({ length: p + 1 }, (_, j) => j).filter(j => p - j < window)
      const scores = seen.map(j =>
        Array.from({ length: e }, (_, l) => scale * turned(q, at, p, l) * cache.keys[place(i, j, kv) + l]!).reduce((a, b) => a + b, 0),
      )
      const most = Math.max(...scores)
      const weights = scores.map(score => Math.exp(score - most))
      const sum = weights.reduce((a, b) => a + b, 0)
      for (const [n, j] of seen.entries())
        for (let l = 0; l < e; l++) out[at + l]! += (weights[n]! / sum) * cache.values[place(i, j, kv) + l]!
    }
  return out
}
