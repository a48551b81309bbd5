/** M of order K, entries ±1, by the definitions of Paley and Williamson. */
const legendre = (a: number, q: number): number => {
  const rest = ((a % q) + q) % q
  if (rest === 0) return 0
  return Array.from({ length: q - 1 }, (_, i) => ((i + 1) * (i + 1)) % q).includes(rest) ? 1 : -1
}
const williamson: Record<number, string[]> = {
  52: ['14f2', '11f8', '1a65', '1090'],
  116: ['192ef749', '1ed1f8b7', '1465fa62', '1c650a63'],
  124: ['4e90c25c', '4e90c25c', '41d4cae0', '7e2b351f'],
  156: ['7282619053', '7898528647', '73452128b3', '46a0edc158'],
  172: ['467aecdd798', '6fc29b650fd', '7595e85ea6b', '63d260192f1'],
}
export const hadamardMatrixReference = (K: number): ((i: number, j: number) => number) => {
  if (K === 1) return () => 1
  if ([12, 20, 60, 108, 140].includes(K)) return (i, j) => (i === 0 && j > 0 ? -1 : j === 0 || i === j ? 1 : legendre(i - j, K - 1))
  const [half, c] = [K / 2, K / 4]
  const P = (i: number, j: number) => (i === 0 || j === 0 || i === j ? 1 : legendre(j - i, half - 1))
  if (K === 28 || K === 36) {
    return (i, j) => {
      if (i < half && j < half) return P(i, j)
      if (i >= half && j >= half) return -P(i - half, j - half)
      return P(i % half, j % half) - (i % half === j % half ? 2 : 0)
    }
  }
  const X = williamson[K]!.map(hex => BigInt(`0x${hex}`).toString(2).padStart(c, '0'))
  const place = [
    [0, 1, 2, 3],
    [1, 0, 3, 2],
    [2, 3, 0, 1],
    [3, 2, 1, 0],
  ]
  const sign = [
    [1, 1, 1, 1],
    [-1, 1, -1, 1],
    [-1, 1, 1, -1],
    [-1, -1, 1, 1],
  ]
  return (i, j) => {
    const [a, b] = [Math.floor(i / c), Math.floor(j / c)]
    return sign[a]![b]! * (X[place[a]![b]!]![((j % c) - (i % c) + c) % c] === '1' ? 1 : -1)
  }
}

/** x·H (or x·Hᵀ) for one row x of length K·2ᵖ, H = (M_K ⊗ Sylvester(2ᵖ))/√(K·2ᵖ); Sylvester's entry (a, b) is (−1)^(ones of a AND b). */
export const hadamardReference = (x: ArrayLike<number>, K: number, transpose: boolean): Float64Array => {
  const [n, w, M] = [x.length, x.length / K, hadamardMatrixReference(K)]
  const parity = (bits: number): number => (bits ? 1 - parity(bits & (bits - 1)) : 0)
  const S = Array.from({ length: w }, (_, bits) => 1 - 2 * parity(bits))
  const table = Array.from({ length: K }, (_, i) => Array.from({ length: K }, (_, j) => M(i, j)))
  return Float64Array.from({ length: n }, (_, j) => {
    let sum = 0
    for (let i = 0; i < n; i++) {
      const [r, c] = [Math.floor(i / w), Math.floor(j / w)]
      sum += x[i]! * (transpose ? table[c]![r]! : table[r]![c]!) * S[(i % w) & (j % w)]!
    }
    return sum / Math.sqrt(n)
  })
}
