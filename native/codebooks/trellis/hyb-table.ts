/**
 * The trained table of HYB: k-means centroids of V Gaussians, scaled to root mean square √(15/16).
 * QTIP (arXiv:2406.11235) section 3.1.2. Differs from the paper: our own samples and more iterations.
 *
 * 'plane': as published, as if the table were all there is; the sign that HYB puts on the first component then mirrors a
 * table that covers the plane already, and the mirrored points crowd the others. 'half-plane': samples are mirrored to
 * a first component that is not negative, so that table and mirror image cover the plane together.
 */
import { gaussian } from '../gaussian.js'
import { fromHalf, toHalf } from '../half.js'
import { halfPlaneTable9, hybTable9 } from './hyb-table-9.js'

export type HybDomain = 'plane' | 'half-plane'

interface HybShape {
  readonly Q: number
  readonly V: number
  readonly domain: HybDomain
}

const trained = new Map<string, Uint16Array>()

/** f16 bits [2^Q, V]. Those of Q = 9, V = 2 are stored; others are trained on first use: seconds up to Q = 10, at most a minute or two. */
export const hybTable = (shape: HybShape): Uint16Array => {
  const { Q, V, domain } = shape
  const key = `${Q} ${V} ${domain}`
  let table = trained.get(key)
  if (table === undefined) {
    const samples = 2 ** (V === 4 ? Q + 5 : Math.min(Q + 8, Math.max(17, Q + 5)))
    table = Q === 9 && V === 2 ? stored(domain === 'plane' ? hybTable9 : halfPlaneTable9) : trainHybTable(shape, samples, 30)
    trained.set(key, table)
  }
  return table
}

const stored = (base64: string): Uint16Array => {
  const bytes = Buffer.from(base64, 'base64')
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readUInt16LE(2 * i))
}

/**
 * Lloyd's k-means in float64 on so many samples of a fixed seed, from the first 2^Q of them, until an iteration takes
 * less than a hundred-thousandth off the mean distance, or for so many iterations.
 */
export const trainHybTable = ({ Q, V, domain }: HybShape, samples: number, iterations: number): Uint16Array => {
  const count = 2 ** Q
  const data = gaussian(V * samples, Q)
  if (domain === 'half-plane') for (let i = 0; i < data.length; i += V) data[i] = Math.abs(data[i]!)
  const centroids = data.slice(0, V * count)
  const owner = Int32Array.from({ length: samples }, (_, i) => i % count)
  let before = Number.POSITIVE_INFINITY
  for (let iteration = 0; iteration < iterations; iteration++) {
    const nearest = nearestOf(centroids, V)
    const sums = new Float64Array(V * count)
    const members = new Int32Array(count)
    let distance = 0
    for (let i = 0; i < samples; i++) {
      const found = nearest(data, V * i, owner[i]!)
      const at = found.at
      distance += found.distance
      owner[i] = at
      members[at] = members[at]! + 1
      for (let v = 0; v < V; v++) sums[V * at + v] = sums[V * at + v]! + data[V * i + v]!
    }
    for (let i = 0; i < V * count; i++) {
      const size = members[Math.floor(i / V)]!
      if (size > 0) centroids[i] = sums[i]! / size
    }
    if (distance > before * (1 - 1e-5)) break
    before = distance
  }
  const mean = domain === 'plane' ? centroids.reduce((a, b) => a + b, 0) / centroids.length : 0
  const deviation = Math.sqrt(centroids.reduce((sum, x) => sum + (x - mean) ** 2, 0) / centroids.length)
  return Uint16Array.from(centroids, (x, i) => wholeHalf((x / deviation) * Math.sqrt(15 / 16), i % V === 0))
}

/**
 * f16 bits of the number next to x that the CPU's products hold as it is: whole multiples of 2^-13, as two bytes. They negate the first of V byte by
 * byte, so that its lower one is never −128 (product_cpu.cc). What is decoded and what is multiplied are then the same.
 */
const wholeHalf = (x: number, first: boolean): number => {
  const units = Math.round(x * 2 ** 13)
  for (let away = 0; ; away++) {
    for (const near of [units + away, units - away]) {
      const bits = toHalf(near / 2 ** 13)
      if (!first || ((fromHalf(bits) * 2 ** 13) & 255) !== 128) return bits
    }
  }
}

/** Search for the nearest of points [count, V] in a balanced k-d tree, given one that may be near. The result is reused. */
const nearestOf = (points: Float64Array, V: number) => {
  const order = Array.from({ length: points.length / V }, (_, i) => i)
  const build = (low: number, high: number, axis: number): void => {
    if (high - low < 2) return
    const part = order.slice(low, high).sort((a, b) => points[V * a + axis]! - points[V * b + axis]!)
    for (const [i, point] of part.entries()) order[low + i] = point
    const middle = (low + high) >> 1
    build(low, middle, (axis + 1) % V)
    build(middle + 1, high, (axis + 1) % V)
  }
  build(0, order.length, 0)
  const found = { at: 0, distance: 0 }
  let [x, from]: [Float64Array, number] = [points, 0]
  const distanceTo = (point: number): number => {
    let sum = 0
    for (let v = 0; v < V; v++) {
      const d = x[from + v]! - points[V * point + v]!
      sum += d * d
    }
    return sum
  }
  const visit = (low: number, high: number, axis: number): void => {
    if (low >= high) return
    const middle = (low + high) >> 1
    const point = order[middle]!
    const distance = distanceTo(point)
    if (distance < found.distance) {
      found.distance = distance
      found.at = point
    }
    const across = x[from + axis]! - points[V * point + axis]!
    const next = axis + 1 === V ? 0 : axis + 1
    if (across < 0) visit(low, middle, next)
    else visit(middle + 1, high, next)
    if (across * across >= found.distance) return
    if (across < 0) visit(middle + 1, high, next)
    else visit(low, middle, next)
  }
  return (data: Float64Array, offset: number, guess: number): { readonly at: number; readonly distance: number } => {
    x = data
    from = offset
    found.at = guess
    found.distance = distanceTo(guess)
    visit(0, order.length, 0)
    return found
  }
}
