/**
 * The trained table of HYB: k-means centroids of Gaussian pairs, scaled to root mean square √(15/16).
 * QTIP (arXiv:2406.11235) section 3.1.2. Differs from the paper: our own samples and more iterations.
 */
import { gaussian } from '../gaussian.js'
import { toHalf } from '../half.js'
import { hybTable9 } from './hyb-table-9.js'

const trained = new Map<number, Uint16Array>()

/** f16 bits [2^Q, 2]. Q = 9 is stored (scripts/hyb-table.ts made it); others are trained on first use, in seconds. */
export const hybTable = (Q: number): Uint16Array => {
  let table = trained.get(Q)
  if (table === undefined) {
    table = Q === 9 ? stored() : trainHybTable(Q, 2 ** (Q + 8), 100)
    trained.set(Q, table)
  }
  return table
}

const stored = (): Uint16Array => {
  const bytes = Buffer.from(hybTable9, 'base64')
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readUInt16LE(2 * i))
}

/**
 * Lloyd's k-means in float64 on `samples` Gaussian pairs of a fixed seed, from the first 2^Q of them, until an iteration
 * takes less than a millionth off the mean distance, or for so many iterations.
 */
export const trainHybTable = (Q: number, samples: number, iterations: number): Uint16Array => {
  const count = 2 ** Q
  const data = gaussian(2 * samples, Q)
  const centroids = data.slice(0, 2 * count)
  let before = Number.POSITIVE_INFINITY
  for (let iteration = 0; iteration < iterations; iteration++) {
    const order = Array.from({ length: count }, (_, i) => i).sort((a, b) => centroids[2 * a]! - centroids[2 * b]!)
    const xs = Float64Array.from(order, i => centroids[2 * i]!)
    const ys = Float64Array.from(order, i => centroids[2 * i + 1]!)
    const sums = new Float64Array(3 * count)
    let distance = 0
    for (let i = 0; i < samples; i++) {
      const [x, y] = [data[2 * i]!, data[2 * i + 1]!]
      const at = nearest(xs, ys, x, y)
      distance += (xs[at]! - x) ** 2 + (ys[at]! - y) ** 2
      sums[3 * at] = sums[3 * at]! + x
      sums[3 * at + 1] = sums[3 * at + 1]! + y
      sums[3 * at + 2] = sums[3 * at + 2]! + 1
    }
    for (const [at, i] of order.entries()) {
      const members = sums[3 * at + 2]!
      if (members === 0) continue
      centroids[2 * i] = sums[3 * at]! / members
      centroids[2 * i + 1] = sums[3 * at + 1]! / members
    }
    if (distance > before * (1 - 1e-6)) break
    before = distance
  }
  const mean = centroids.reduce((a, b) => a + b, 0) / centroids.length
  const deviation = Math.sqrt(centroids.reduce((sum, x) => sum + (x - mean) ** 2, 0) / centroids.length)
  return Uint16Array.from(centroids, x => toHalf((x / deviation) * Math.sqrt(15 / 16)))
}

/** Index of the nearest point; xs ascend: from the place of x outwards, until the first component alone is too far. */
const nearest = (xs: Float64Array, ys: Float64Array, x: number, y: number): number => {
  let [low, high] = [0, xs.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (xs[middle]! < x) low = middle + 1
    else high = middle
  }
  let best = 0
  let least = Number.POSITIVE_INFINITY
  for (let [down, up] = [low - 1, low]; down >= 0 || up < xs.length; ) {
    const below = down >= 0 ? x - xs[down]! : Number.POSITIVE_INFINITY
    const above = up < xs.length ? xs[up]! - x : Number.POSITIVE_INFINITY
    const at = below < above ? down-- : up++
    const across = Math.min(below, above)
    if (across * across >= least) break
    const distance = across * across + (ys[at]! - y) ** 2
    if (distance < least) [least, best] = [distance, at]
  }
  return best
}
