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
import { overflown } from './finite.js'

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

/** The token. `seen`: prompt and what was generated; `uniform`: a number in [0, 1), not asked for when greedy. Raises PipeError when a logit is NaN. */
export function sample(logits: Float32Array, seen: ReadonlySet<number>, o: Sampling, uniform: () => number): number {
  const z = new Float64Array(logits)
  for (const id of seen) {
    const x = z[id]
    if (x !== undefined) z[id] = x > 0 ? x / o.repetitionPenalty : x * o.repetitionPenalty
  }
  const likeliest = largest(z)
  if (o.temperature === 0) return likeliest
  const most = at(z, likeliest)
  for (let id = 0; id < z.length; id++) z[id] = (at(z, id) - most) / o.temperature
  return draw(z, o, uniform())
}

/** Plain loops from here on: a vocabulary has 10⁵ tokens, and every row of every step comes through here. */
const at = (x: Float64Array, i: number): number => x[i] as number

/** Of equal ones the first. */
function largest(z: Float64Array): number {
  let best = 0
  for (let id = 0; id < z.length; id++) {
    const x = at(z, id)
    if (Number.isNaN(x)) throw overflown()
    if (x > at(z, best)) best = id
  }
  return best
}

/** z: log p, up to a constant that makes the largest 0. */
function draw(z: Float64Array, { topK, topP, minP }: Sampling, u: number): number {
  const p = z.map(Math.exp)
  const order = new Ranking(z)
  const most = topK > 0 ? Math.min(topK, z.length) : z.length
  // All that top-k leaves, which is all of it or few.
  let sum = 0
  if (topK > 0) for (let i = 0; i < most; i++) sum += at(p, order.at(i))
  else for (let id = 0; id < p.length; id++) sum += at(p, id)
  let count = most
  if (topP < 1 || minP > 0) {
    const enough = topP < 1 ? topP * sum : Number.POSITIVE_INFINITY
    sum = 0
    for (count = 0; count < most && (count === 0 || (sum < enough && at(p, order.at(count)) >= minP)); count++)
      sum += at(p, order.at(count))
  }
  let rest = u * sum
  let id = order.at(0)
  for (let i = 0; i < count && rest >= 0; i++) {
    const next = order.at(i)
    if (at(p, next) === 0) break // rounding used up the sum: the last that is possible
    id = next
    rest -= at(p, id)
  }
  return id
}

const bins = 64
/** Log p below which tokens are one bin: together 10⁵ of them are not drawn in a lifetime. */
const deepest = 32

/** Ids by falling z, of equal ones the lowest first; put into bins at once, and sorted bin by bin, as far as they are asked for. */
class Ranking {
  readonly #ids: Uint32Array
  /** Bin b is #ids[#starts[b], #starts[b + 1]). */
  readonly #starts = new Uint32Array(bins + 1)
  #sorted = 0

  /** z: 0 at most. */
  constructor(private readonly z: Float64Array) {
    let least = 0
    for (let id = 0; id < z.length; id++) least = Math.min(least, at(z, id))
    const scale = bins / Math.min(deepest, -least || 1)
    const binOf = new Uint8Array(z.length)
    const next = new Uint32Array(bins + 1)
    for (let id = 0; id < z.length; id++) {
      const bin = Math.min(bins - 1, Math.floor(-at(z, id) * scale))
      binOf[id] = bin
      next[bin + 1]! += 1
    }
    for (let b = 0; b < bins; b++) next[b + 1]! += next[b]!
    this.#starts.set(next)
    this.#ids = new Uint32Array(z.length)
    for (let id = 0; id < z.length; id++) this.#ids[next[binOf[id]!]!++] = id
  }

  at(i: number): number {
    while (i >= this.#starts[this.#sorted]!) {
      this.#ids.subarray(this.#starts[this.#sorted], this.#starts[this.#sorted + 1]).sort((a, b) => at(this.z, b) - at(this.z, a) || a - b)
      this.#sorted++
    }
    return this.#ids[i]!
  }
}
