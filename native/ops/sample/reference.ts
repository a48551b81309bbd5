/** How a token is drawn: as a row of `how` (sample.h). */
export type DrawNumbers = readonly [penalty: number, temperature: number, k: number, p: number, least: number, u: number]

/** The token that follows logits z, by the definition: all sorted, then each cut on what the one before left. −1 where that is none. */
export function sampleReference(z: Float32Array, seen: ReadonlySet<number>, [r, temperature, k, p, least, u]: DrawNumbers): number {
  const x = z.map((value, id) => (!seen.has(id) ? value : value > 0 ? value / r : value * r))
  const most = x.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  if (!Number.isFinite(most)) return -1
  let ids = [...x.keys()].sort((a, b) => x[b]! - x[a]! || a - b)
  if (temperature === 0) return ids[0]!
  const weight = (id: number): number => Math.exp((x[id]! - most) / temperature)
  /** Of the first of what is left, the first two, … */
  const sums = (): number[] => {
    let sum = 0
    return ids.map(id => {
      sum += weight(id)
      return sum
    })
  }
  if (k > 0) ids = ids.slice(0, k)
  if (p < 1) {
    const together = sums()
    const last = together.findIndex(sum => sum >= p * together.at(-1)!)
    ids = ids.slice(0, last < 0 ? ids.length : last + 1)
  }
  ids = ids.filter((id, i) => i === 0 || weight(id) >= least)
  const together = sums()
  return ids[together.findIndex(sum => sum > u * together.at(-1)!)] ?? ids.at(-1)!
}
