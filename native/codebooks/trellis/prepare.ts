/** What the search needs to know of a code, worked out once when it is opened: distinct values, fixed point, and the order states are met in. */
import { toHalf } from '../half.js'
import type { TileShape } from '../tiles/tiles.js'

/** Arguments of the op trellis_encode that depend on the code alone (trellis_encode.h, search.h). */
export interface SearchPlan {
  /** [bins] two int16 in one: the components of a distinct value in fixed point. */
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

/** values [2^L, V]. */
export const planSearch = (values: Float32Array, shape: TileShape): SearchPlan => {
  const { V, KV, L } = shape
  const states = 2 ** L
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
  const sums = new Float64Array(bins * 3)
  for (let i = 0; i < states; i++) {
    const at = 3 * met[i]!
    for (let v = 0; v < V; v++) sums[at + v] = sums[at + v]! + values[order[i]! * V + v]!
    sums[at + 2] = sums[at + 2]! + 1
  }
  const value = (bin: number, v: number): number => (v < V ? sums[3 * bin + v]! / sums[3 * bin + 2]! : 0)

  let [largest, radius, power] = [0, 0, 0]
  for (const x of values) {
    largest = Math.max(largest, Math.abs(x))
    power += x * x
  }
  for (let bin = 0; bin < bins; bin++) radius = Math.max(radius, Math.hypot(value(bin, 0), value(bin, 1)))
  // x in 15 bits up to twice the largest value; values in 14 or, in pairs, 13: then no sum overflows 31 bits.
  const limit = 2 * largest
  const target = 32767 / limit
  const finest = 16383 / V / largest
  const quantum = (range * V * 4 ** (-KV / V) * (power / states / V)) / 65536
  const shift = Math.max(0, Math.floor(Math.log2((quantum * finest * target) / 2)))
  const unit = 2 ** shift / quantum
  const scale = Math.min(finest, (2 * unit) / target)
  const pairs = new Int32Array(bins)
  const norms = new Int32Array(bins)
  for (let bin = 0; bin < bins; bin++) {
    const [a, b] = [value(bin, 0), value(bin, 1)]
    pairs[bin] = (Math.round(a * scale) & 0xffff) | (Math.round(b * scale) << 16)
    norms[bin] = Math.round(((a * a + b * b) * (scale * target)) / 2)
  }
  return {
    pairs,
    norms,
    order: bins <= narrowBins ? met.map(bin => 8 * bin) : met,
    shift,
    unit: (scale * target) / 2,
    target,
    limit,
    radius,
  }
}

/** The number of each state's value among the distinct ones; for V = 1 of its cell, where there are too many. */
const distinct = (values: Float32Array, V: number, most: number): Float64Array => {
  const states = values.length / V
  const keys = Float64Array.from({ length: states }, (_, s) =>
    V === 1 ? values[s]! : toHalf(values[2 * s]!) * 65536 + toHalf(values[2 * s + 1]!),
  )
  if (V === 1 && new Set(keys).size > most) {
    const low = keys.reduce((a, b) => Math.min(a, b))
    const step = (keys.reduce((a, b) => Math.max(a, b)) - low) / (most - 1)
    return keys.map(x => Math.round((x - low) / step))
  }
  return keys
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
