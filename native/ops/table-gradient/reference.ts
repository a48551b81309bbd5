export interface CodedShape {
  m: number
  n: number
  tile: readonly [number, number]
  V: number
  order?: ArrayLike<number>
}

/** [rows·V]: Σ of ±dValues over the weights that were read from each entry; arguments as in addTableGradient. */
export const tableGradientReference = (
  rows: number,
  codes: ArrayLike<number>,
  index: ArrayLike<number>,
  dValues: ArrayLike<number>,
  { m, n, tile: [Tx, Ty], V, order }: CodedShape,
): Float64Array => {
  const [out, across, steps] = [new Float64Array(rows * V), Math.ceil(n / Ty), (Tx * Ty) / V]
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const [tile, e] = [Math.floor(i / Tx) * across + Math.floor(j / Ty), (i % Tx) * Ty + (j % Ty)]
      const p = order ? order[e]! : e
      const state = codes[tile * steps + Math.floor(p / V)]!
      const at = (index[state]! & 0xffff) * V + (p % V)
      out[at] = out[at]! + (p % V === 0 && index[state]! >> 16 ? -1 : 1) * dValues[i * n + j]!
    }
  }
  return out
}
