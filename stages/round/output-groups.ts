/** Groups of outputs that have an H̃ each: which rows of a stack are fed back through which, and errors in their metric. */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { Factored } from './factor.js'
import type { Part } from './ldlq.js'

/** Rows of group k of g, of m. */
export const rowsOf = (k: number, g: number, m: number): [number, number] => [(k * m) / g, ((k + 1) * m) / g]

/** Σ_k tr((W_k−V_k) H_k (W_k−V_k)ᵀ) and Σ_k tr(W_k H_k W_kᵀ), w, v f32 [m, n], hs f32 [n, n], one a group of rows. All is enqueued when it returns. */
export async function traces(ops: Ops, w: Tensor, v: Tensor, hs: readonly Tensor[]): Promise<[error: number, total: number]> {
  const sums = hs.map((h, k) => {
    if (hs.length === 1) return ops.proxyError(w, v, h)
    const rows = rowsOf(k, hs.length, w.shape[0] ?? 0)
    using wk = ops.copy(w, { rows })
    using vk = ops.copy(v, { rows })
    return ops.proxyError(wk, vk, h)
  })
  const read = async (sum: Tensor): Promise<Float64Array> => {
    using both = sum
    return new Float64Array((await both.read()).slice().buffer)
  }
  const found = await Promise.all(sums.map(read))
  const total = (i: 0 | 1): number => found.reduce((all, pair) => all + (pair[i] ?? Number.NaN), 0)
  return [total(0), total(1)]
}

/** Rows of the stack by the factor they are fed back through: whole tiles, neighbours of one factor together. */
export function partsOf(
  rows: readonly { readonly m: number }[],
  offsets: readonly number[],
  hs: readonly (readonly Factored[])[],
  Tx: number,
): Part[] {
  const parts: Part[] = []
  for (const [i, row] of rows.entries()) {
    const factored = hs[i] ?? []
    for (const [k, { l }] of factored.entries()) {
      const [from = 0, to = 0] = rowsOf(k, factored.length, row.m).map(at => (offsets[i] ?? 0) + Math.ceil(at / Tx) * Tx)
      const last = parts.at(-1)
      if (last !== undefined && last.l === l) parts.splice(-1, 1, { rows: [last.rows[0], to], l })
      else if (from < to) parts.push({ rows: [from, to], l })
    }
  }
  return parts
}
