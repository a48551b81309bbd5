/** Definitions in float64, for tests: the value of a path, the search, the stored forms. */

/** values[s·V + v]; steps t = 0 … N−1 aim at x[t·V …]. Sizes as in tiles.ts. */
export interface Trellis {
  readonly L: number
  readonly KV: number
  readonly V: number
  readonly values: ArrayLike<number>
}

/** Σ_t |value(s_t) − x_t|². */
export const distortion = ({ V, values }: Trellis, states: ArrayLike<number>, x: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += (values[states[Math.floor(i / V)]! * V + (i % V)]! - x[i]!) ** 2
  return sum
}

/** Viterbi from the states with s >> KV = overlap (any, if left out) to those with s mod 2^(L−KV) = overlap: the best path. */
export const viterbi = (trellis: Trellis, x: ArrayLike<number>, overlap?: number): number[] => {
  const { L, KV, V, values } = trellis
  const steps = x.length / V
  const groups = 2 ** (L - KV)
  const error = (s: number, t: number) =>
    Array.from({ length: V }, (_, v) => (values[s * V + v]! - x[t * V + v]!) ** 2).reduce((a, b) => a + b)
  let cost = Array.from({ length: 2 ** L }, (_, s) =>
    overlap === undefined || s >> KV === overlap ? error(s, 0) : Number.POSITIVE_INFINITY,
  )
  const from: number[][] = []
  for (let t = 1; t < steps; t++) {
    const before = cost
    // States with one s >> KV have the same predecessors.
    const best = (g: number) =>
      Array.from({ length: 2 ** KV }, (_, d) => d * groups + g).reduce((a, b) => (before[b]! < before[a]! ? b : a))
    from[t] = Array.from({ length: groups }, (_, g) => best(g))
    cost = before.map((_, s) => before[from[t]![s >> KV]!]! + error(s, t))
  }
  const path = new Array<number>(steps)
  path[steps - 1] = cost.reduce(
    (best, c, s) => ((overlap === undefined || s % groups === overlap) && (best < 0 || c < cost[best]!) ? s : best),
    -1,
  )
  for (let t = steps - 1; t > 0; t--) path[t - 1] = from[t]![path[t]! >> KV]!
  return path
}

/** Two passes: over x turned right by half, to find the bits that first and last step share; then with these. */
export const tailBiting = (trellis: Trellis, x: readonly number[]): number[] => {
  const half = Math.floor(x.length / (2 * trellis.V))
  const turned = [...x.slice(x.length - half * trellis.V), ...x.slice(0, x.length - half * trellis.V)]
  return viterbi(trellis, x, viterbi(trellis, turned)[half]! >> trellis.KV)
}

/** The bits of a tile: state 0's L bits, then KV more of each state, most significant first; the last L − KV repeat the first. */
export const bitString = ({ L, KV }: Trellis, states: readonly number[]): string =>
  states
    .map((s, t) =>
      s
        .toString(2)
        .padStart(L, '0')
        .slice(t === 0 ? 0 : L - KV),
    )
    .join('')
    .slice(0, states.length * KV)

/** y [t, m] = x [t, n] · wᵀ, w [m, n]. */
export const productReference = (x: ArrayLike<number>, w: ArrayLike<number>, t: number, m: number, n: number): Float64Array => {
  const y = new Float64Array(t * m)
  for (let b = 0; b < t; b++) {
    for (let i = 0; i < m; i++) {
      let sum = 0
      for (let j = 0; j < n; j++) sum += w[i * n + j]! * x[b * n + j]!
      y[b * m + i] = sum
    }
  }
  return y
}
