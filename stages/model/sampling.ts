/**
 * sampling: the next token from logits z [vocab]. In this order, each on what the one before left:
 *
 *   repetition penalty r   z_i / r where z_i > 0, else z_i · r, for tokens seen before      arXiv:1909.05858, section 4.1
 *   temperature T          p = softmax(z / T); 0: the largest z, of equal ones the lowest id, and none of what follows
 *   top-k                  the k most likely
 *   top-p                  the fewest most likely that together have at least p              arXiv:1904.09751, section 3.1
 *   min-p                  those with at least min-p times the probability of the likeliest  arXiv:2407.01082, section 3
 *
 * and one is drawn from what is left, in proportion. In float64; equal logits and equal random numbers give equal tokens.
 */
export interface Sampling {
  /** 0: greedy. */
  readonly temperature: number
  /** 0: all. */
  readonly topK: number
  /** 1: all. */
  readonly topP: number
  /** 0: all. */
  readonly minP: number
  /** 1: none. */
  readonly repetitionPenalty: number
}

export const greedy: Sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 }

/** The token. `seen`: prompt and what was generated; `uniform`: a number in [0, 1), not asked for when greedy. Throws RangeError when a logit is NaN. */
export function sample(logits: Float32Array, seen: ReadonlySet<number>, o: Sampling, uniform: () => number): number {
  const z = Float64Array.from(logits)
  for (const id of seen) {
    const x = z[id]
    if (x !== undefined) z[id] = x > 0 ? x / o.repetitionPenalty : x * o.repetitionPenalty
  }
  if (z.some(Number.isNaN)) throw new RangeError('a logit is not a number')
  const likeliest = z.reduce((best, x, id) => (x > (z[best] ?? Number.NaN) ? id : best), 0)
  if (o.temperature === 0) return likeliest
  const most = z[likeliest] ?? 0
  const p = z.map(x => Math.exp((x - most) / o.temperature))
  const left = keep(p, o)
  const sum = left.reduce((total, id) => total + (p[id] ?? 0), 0)
  let rest = uniform() * sum
  for (const id of left) {
    rest -= p[id] ?? 0
    if (rest < 0) return id
  }
  return left[left.length - 1] ?? likeliest // rounding used up the sum
}

/** The tokens that top-k, top-p and min-p leave, the likeliest first; p need not sum to 1. */
function keep(p: Float64Array, { topK, topP, minP }: Sampling): Uint32Array {
  const sorted = Uint32Array.from(p.keys()).sort((a, b) => (p[b] ?? 0) - (p[a] ?? 0) || a - b)
  const top = topK > 0 ? sorted.subarray(0, topK) : sorted
  let count = top.length
  if (topP < 1) {
    const sum = top.reduce((total, id) => total + (p[id] ?? 0), 0)
    let reached = 0
    for (count = 0; count < top.length && (count === 0 || reached < topP * sum); count++) reached += p[top[count] ?? 0] ?? 0
  }
  const least = minP * (p[sorted[0] ?? 0] ?? 0)
  const nucleus = top.subarray(0, count)
  const below = nucleus.findIndex(id => (p[id] ?? 0) < least)
  return below < 0 ? nucleus : nucleus.subarray(0, Math.max(1, below))
}
