/** Bits among linears: each step goes where a bit is worth most. */

export interface Candidate {
  readonly weights: number
  /** Error at K bits is error · 2^(−2K). */
  readonly error: number
}

/**
 * A K of `choices` for each candidate, Σ K·weights ≤ bits·Σ weights, Σ error·2^(−2K) as little as may be: from the least K up,
 * always the step with the most error taken away a bit among those that fit. As errors are convex in K this is the optimum
 * but for what the last steps leave over, less than the smallest linear that could still be raised.
 */
export function allocate(candidates: readonly Candidate[], bits: number, choices: readonly number[]): number[] {
  const rates = [...new Set(choices)].sort((a, b) => a - b)
  const at = candidates.map(() => 0)
  const rate = (i: number, step = 0): number | undefined => rates[(at[i] ?? 0) + step]
  let left = candidates.reduce((sum, { weights }) => sum + weights * (bits - (rates[0] ?? 0)), 0) * (1 + 1e-12)
  for (;;) {
    let [best, most] = [-1, -1]
    for (const [i, { weights, error }] of candidates.entries()) {
      const [now, next] = [rate(i), rate(i, 1)]
      if (now === undefined || next === undefined || (next - now) * weights > left) continue
      const worth = (error * (2 ** (-2 * now) - 2 ** (-2 * next))) / ((next - now) * weights)
      if (worth > most) [best, most] = [i, worth]
    }
    const chosen = candidates[best]
    if (chosen === undefined) return candidates.map((_, i) => rate(i) ?? 0)
    left -= ((rate(best, 1) ?? 0) - (rate(best) ?? 0)) * chosen.weights
    at[best] = (at[best] ?? 0) + 1
  }
}
