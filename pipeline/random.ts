/**
 * Random numbers by name: rng(seed, 'su', layer, linear). A name and a seed give the same numbers on every machine
 * and in any order, because the generator counts instead of carrying a state that others advance.
 *
 * Philox 4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
 */
import { createHash } from 'node:crypto'

/** One named stream. Each call goes on where the last one ended. */
export interface Random {
  /** n numbers in [0, 1), of 53 bits. */
  uniform(n: number): Float64Array
  /** n numbers from N(0, 1), by Marsaglia's polar method in float64. */
  normal(n: number): Float32Array
  /** n times ±1, one bit each. */
  signs(n: number): Float32Array
  /** n whole numbers in [0, below), unbiased; below ≤ 2³². */
  integers(n: number, below: number): Uint32Array
  bytes(n: number): Uint8Array
}

type Words4 = [number, number, number, number]

/** Ten rounds of Philox on one counter block; all words unsigned 32 bit. */
export function philox4x32(counter: Readonly<Words4>, key: readonly [number, number]): Words4 {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0)
    const high1 = multiplyHigh(0xcd9e8d57, c2)
    const low0 = Math.imul(0xd2511f53, c0)
    const low1 = Math.imul(0xcd9e8d57, c2)
    ;[c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0]
    k0 = (k0 + 0x9e3779b9) | 0 // Weyl sequence of the golden ratio
    k1 = (k1 + 0xbb67ae85) | 0 // and of √3 − 1
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0]
}

/** The upper 32 bits of the 64-bit product, by 16-bit halves: exact in doubles, and no BigInt in the loop. */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16
  const aLow = a & 0xffff
  const bHigh = b >>> 16
  const bLow = b & 0xffff
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const cross = aLow * bHigh + (middle & 0xffff)
  return aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(cross / 65536)
}

/** The stream of this seed and name. The first two words of the name's SHA-256 are the key, the next two the upper half of the counter. */
export function rng(seed: number, ...name: (string | number)[]): Random {
  const digest = createHash('sha256')
    .update(JSON.stringify([seed, ...name]))
    .digest()
  const key: [number, number] = [digest.readUInt32LE(0), digest.readUInt32LE(4)]
  const high: [number, number] = [digest.readUInt32LE(8), digest.readUInt32LE(12)]
  let block = 0
  let words: Words4 = [0, 0, 0, 0]
  let used = 4

  const word = (): number => {
    if (used === 4) {
      words = philox4x32([block >>> 0, Math.floor(block / 2 ** 32), ...high], key)
      block++
      used = 0
    }
    return words[used++] as number
  }
  const uniform1 = (): number => ((word() >>> 5) * 2 ** 26 + (word() >>> 6)) / 2 ** 53

  return {
    uniform: n => Float64Array.from({ length: n }, uniform1),

    normal: n => {
      const out = new Float32Array(n)
      for (let i = 0; i < n; i += 2) {
        let x: number, y: number, s: number
        do {
          x = 2 * uniform1() - 1
          y = 2 * uniform1() - 1
          s = x * x + y * y
        } while (s >= 1 || s === 0)
        const factor = Math.sqrt((-2 * Math.log(s)) / s)
        out[i] = x * factor
        if (i + 1 < n) out[i + 1] = y * factor
      }
      return out
    },

    signs: n => {
      const out = new Float32Array(n)
      let bits = 0
      for (let i = 0; i < n; i++) {
        if (i % 32 === 0) bits = word()
        out[i] = (bits >>> (i % 32)) & 1 ? -1 : 1
      }
      return out
    },

    integers: (n, below) => {
      if (!Number.isInteger(below) || below < 1 || below > 2 ** 32) {
        throw new RangeError(`integers: below is a whole number from 1 to 2³², not ${below}`)
      }
      const limit = 2 ** 32 - (2 ** 32 % below) // words from here on would favour the small remainders
      const draw = (): number => {
        for (;;) {
          const w = word()
          if (w < limit) return w % below
        }
      }
      return Uint32Array.from({ length: n }, draw)
    },

    bytes: n => {
      const out = new Uint8Array(n)
      let w = 0
      for (let i = 0; i < n; i++) {
        if (i % 4 === 0) w = word()
        out[i] = (w >>> (8 * (i % 4))) & 255
      }
      return out
    },
  }
}

/** Numbers in [0, 1), one at a time: the first, second, … of a stream by that name. */
export const draws = (seed: number, name: string): (() => number) => {
  const random = rng(seed, name)
  return () => random.uniform(1)[0] ?? 0
}
