/** Numbers for codebooks' own tables: by a seed, the same on every machine. */

/** Uniform numbers in [0, 1) of 53 bits: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). */
export const uniform = (seed: number): (() => number) => {
  let state = BigInt(seed)
  return () => {
    state = (state + 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn
    let x = state
    x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & 0xffffffffffffffffn
    x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & 0xffffffffffffffffn
    return Number((x ^ (x >> 31n)) >> 11n) / 2 ** 53
  }
}

/** n numbers from N(0, 1), by Marsaglia's polar method. */
export const gaussian = (n: number, seed: number): Float64Array => {
  const next = uniform(seed)
  const out = new Float64Array(n)
  for (let i = 0; i < n; i += 2) {
    let [x, y, s] = [0, 0, 0]
    do {
      x = 2 * next() - 1
      y = 2 * next() - 1
      s = x * x + y * y
    } while (s >= 1 || s === 0)
    const factor = Math.sqrt((-2 * Math.log(s)) / s)
    out[i] = x * factor
    if (i + 1 < n) out[i + 1] = y * factor
  }
  return out
}

/** The x with Φ(x) = p: Newton's method from 0, which comes up to it from one side. 0 < p < 1. */
export const quantile = (p: number): number => {
  if (p < 0.5) return -quantile(1 - p)
  let x = 0
  for (let moved = 1; moved > 1e-12; ) {
    // Φ(x) = 1/2 + φ(x)·(x + x³/3 + x⁵/(3·5) + …)
    let [term, sum] = [x, x]
    for (let n = 3; term > 1e-17 * sum; n += 2) {
      term *= (x * x) / n
      sum += term
    }
    const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)
    moved = (p - 0.5) / density - sum
    x += moved
  }
  return x
}
