/** What the search needs to know of a code, worked out once when it is opened: distinct values, fixed point, and the order states are met in. */
import { toHalf } from '../half.js'
import type { TileShape } from '../tiles/tiles.js'

/** Arguments of the op trellis_encode that depend on the code alone (trellis_encode.h, search.h). */
export interface SearchPlan {
  /** Distinct values; 0: the search is in f32 and reads none of what follows but the limit. */
  readonly bins: number
  /** [bins, ⌈V/2⌉] two int16 in one: the components of a distinct value in fixed point. */
  readonly pairs: Int32Array
  /** [bins] |value|²·unit. */
  readonly norms: Int32Array
  /** [2^L] bin of each state in the order the search meets them. */
  readonly order: Uint16Array
  readonly shift: number
  readonly unit: number
  readonly target: number
  readonly limit: number
  readonly radius: number
  /** States s and 2^L − 1 − s have the same value, as HYB's have at L = 16: s(s+1) is the same modulo 2^16. */
  readonly symmetric: boolean
}

/**
 * Costs have quanta of 1/65536 (times 2 to the tag's bits) of this many times the rate-distortion bound rms²·4^-K a
 * weight. Half of the range is linear: where that is below 64, the tails of a Gaussian suffer. From 512 on the quanta cost
 * 0.1 % of the error (measured: README.md).
 */
const range = 256
/**
 * Codes of single weights with more distinct values are searched with values rounded to so many cells: the rounding adds
 * 0.02 % to the error, and a table of 32 KiB in place of 58 (mul1, 2 bits, 32 lanes) stays in the level-1 cache.
 */
const mostValues = (K: number): number => 128 * 2 ** K
/** Up to so many bins, order holds 8·bin: the addressing mode multiplies by 8. */
const narrowBins = 8191

/** Bits a weight up to which costs fit 16 bits (search.h says why). */
const mostBits = 4
/**
 * With so many bits and up to so many bits of a state, a weight in the tail finds too few values for costs that bend: of single
 * weights the search is in f32 there, too, and takes no longer (README.md).
 */
const fewStates = 11

/** values [2^L, V]. */
export const planSearch = (values: Float32Array, shape: TileShape): SearchPlan => {
  const { V, KV, L } = shape
  const states = 2 ** L
  if (KV > mostBits * V || (V === 1 && KV === mostBits && L <= fewStates)) {
    const limit = 2 * values.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
    const none = Int32Array.of(0)
    return {
      bins: 0,
      pairs: none,
      norms: none,
      order: new Uint16Array(1),
      shift: 0,
      unit: 0,
      target: 0,
      limit,
      radius: 0,
      symmetric: false,
    }
  }
  const binOf = distinct(values, V, mostValues(KV / V))
  const order = meetingOrder(L, KV)
  // Bins are numbered as they are met: what is read together lies together, and not 4096 bytes apart.
  const number = new Map<number, number>()
  const met = Uint16Array.from(order, s => {
    const bin = binOf[s]!
    if (!number.has(bin)) number.set(bin, number.size)
    return number.get(bin)!
  })
  const bins = number.size
  const sums = new Float64Array(bins * V)
  const members = new Float64Array(bins)
  for (let i = 0; i < states; i++) {
    const bin = met[i]!
    for (let v = 0; v < V; v++) sums[bin * V + v] = sums[bin * V + v]! + values[order[i]! * V + v]!
    members[bin] = members[bin]! + 1
  }
  const value = (bin: number, v: number): number => (v < V ? sums[bin * V + v]! / members[bin]! : 0)

  let [largest, radius, power] = [0, 0, 0]
  for (const x of values) {
    largest = Math.max(largest, Math.abs(x))
    power += x * x
  }
  const square = (bin: number): number => value(bin, 0) ** 2 + value(bin, 1) ** 2 + value(bin, 2) ** 2 + value(bin, 3) ** 2
  for (let bin = 0; bin < bins; bin++) radius = Math.max(radius, Math.sqrt(square(bin)))
  // x in 15 bits up to twice the largest value; values in 14, 13 or 12 for V = 1, 2, 4: then no sum overflows 31 bits.
  const limit = 2 * largest
  const target = 32767 / limit
  const finest = 16383 / V / largest
  const quantum = (range * V * 4 ** (-KV / V) * (power / states / V)) / 65536
  const shift = Math.max(0, Math.floor(Math.log2((quantum * finest * target) / 2)))
  const unit = 2 ** shift / quantum
  const scale = Math.min(finest, (2 * unit) / target)
  const words = Math.ceil(V / 2)
  const fixed = (bin: number, v: number): number => Math.round(value(bin, v) * scale)
  const pairs = Int32Array.from({ length: bins * words }, (_, i) => {
    const [bin, v] = [Math.floor(i / words), (i % words) * 2]
    return (fixed(bin, v) & 0xffff) | (fixed(bin, v + 1) << 16)
  })
  const norms = Int32Array.from({ length: bins }, (_, bin) => Math.round((square(bin) * (scale * target)) / 2))
  return {
    bins,
    pairs,
    norms,
    order: bins <= narrowBins ? met.map(bin => 8 * bin) : met,
    shift,
    unit: (scale * target) / 2,
    target,
    limit,
    radius,
    symmetric: L === 16 && binOf.every((bin, s) => bin === binOf[states - 1 - s]),
  }
}

/** The number of each state's value among the distinct ones; for V = 1 of its cell, where there are too many. */
const distinct = (values: Float32Array, V: number, most: number): Float64Array => {
  let keys = Float64Array.from({ length: values.length / V }, (_, s) => values[s * V]!)
  for (let v = 1; v < V; v++) keys = numbered(keys).map((key, s) => key * 65536 + toHalf(values[s * V + v]!))
  if (V === 1 && new Set(keys).size > most) {
    const low = keys.reduce((a, b) => Math.min(a, b))
    const step = (keys.reduce((a, b) => Math.max(a, b)) - low) / (most - 1)
    return keys.map(x => Math.round((x - low) / step))
  }
  return keys
}

/** Equal keys get equal numbers, below 2¹⁶. */
const numbered = (keys: Float64Array): Float64Array => {
  const numbers = new Map<number, number>()
  for (const key of keys) if (!numbers.has(key)) numbers.set(key, numbers.size)
  return keys.map(key => numbers.get(key)!)
}

/** The states as the search meets them: group q·2^KV + i, its predecessors j in chunks of 16: [q][chunk][i][j]. */
const meetingOrder = (L: number, KV: number): Uint16Array => {
  const groups = 2 ** (L - KV)
  const branches = 2 ** KV
  const chunk = Math.min(branches, 16)
  const outputs = Math.min(branches, groups)
  const order = new Uint16Array(2 ** L)
  let at = 0
  for (let q = 0; q < groups / outputs; q++) {
    for (let first = 0; first < branches; first += chunk) {
      for (let i = 0; i < outputs; i++) {
        for (let j = first; j < first + chunk; j++) order[at++] = j * groups + q * outputs + i
      }
    }
  }
  return order
}
