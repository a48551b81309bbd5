/**
 * LDLQ: round column blocks from the last to the first, each after adding what the rounding errors of the
 * columns behind it are worth to it.
 *
 *   H = (L + I)·D·(L + I)ᵀ         block LDL, blocks of Ty columns; L strictly block lower triangular
 *   for k from the last block to the first:
 *     Z  = W[:, k] + (W − Ŵ)[:, >k] · L[>k, k]
 *     Ŵ[:, k] = code(Z)
 *
 * With this feedback the proxy error tr((W−Ŵ)H(W−Ŵ)ᵀ) is the code's error weighted by tr(D) alone, which is
 * the least that any rounding that goes column by column can reach.
 *
 * QuIP (arXiv:2307.13304) section 3, block form QuIP# (arXiv:2402.04396) section 4.1, QTIP (arXiv:2406.11235) algorithm 1.
 */
import type { Codec } from '../../native/codebook.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'

/** Rows of W, whole tiles, that are fed back through this l f32 [n, n]. Left out: every tile is rounded by itself (nearest rounding, for comparison). */
export interface Part {
  readonly rows: readonly [number, number]
  readonly l: Tensor | undefined
}

/** Columns whose feedback is summed block by block; the rest gets it in one large product when they are done. */
const buffered = 128

export interface Rounded {
  /** u16 [m/Tx · n/Ty, codes a tile] */
  readonly codes: Tensor
  /** f32 [m, n], Ŵ */
  readonly values: Tensor
}

/**
 * w f32 [m, n] in units of the code; m a multiple of Tx, n of Ty. `parts`: all rows of w, those with an L of their own apart.
 * `done` is awaited after each buffer with the columns that are finished: pace, progress and stopping.
 */
export async function ldlq(
  ops: Ops,
  codec: Codec,
  w: Tensor,
  parts: readonly Part[],
  done: (columns: number) => Promise<void>,
): Promise<Rounded> {
  const [m = 0, n = 0] = w.shape
  const [Tx, Ty] = codec.tile
  const wide = Math.max(Ty, Math.floor(buffered / Ty) * Ty)
  const target = ops.copy(w) // W plus the feedback of finished buffers
  const error = ops.zeros('f32', [m, n]) // W − Ŵ where rounded
  const values = ops.zeros('f32', [m, n])
  let codes: Tensor | undefined // [m/Tx, n/Ty · codes a tile]
  let perTile = 0

  for (let end = n; end > 0; ) {
    const start = Math.max(0, end - wide)
    for (let to = end; to > start; to -= Ty) {
      const from = to - Ty
      using z = ops.copy(target, { columns: [from, to] })
      // Z += error[:, to:end] · L[to:end, from:to]
      for (const { rows, l } of parts)
        if (l && to < end)
          ops.gemm(z, error, l, {
            window: { rows },
            aWindow: { rows, columns: [to, end] },
            bWindow: { rows: [to, end], columns: [from, to] },
            beta: 1,
          })
      const rounded = codec.encode(z)
      using blockCodes = rounded.codes
      using blockValues = rounded.values
      using blockWeights = ops.copy(w, { columns: [from, to] })
      using blockError = ops.add(blockWeights, blockValues, { beta: -1 })
      ops.paste(error, blockError, { column: from })
      ops.paste(values, blockValues, { column: from })
      perTile = blockCodes.shape[1] ?? 0
      codes ??= ops.zeros('u16', [m / Tx, (n / Ty) * perTile])
      ops.paste(codes, blockCodes, { column: (from / Ty) * perTile })
    }
    // target[:, :start] += error[:, start:end] · L[start:end, :start]
    for (const { rows, l } of parts)
      if (l && start > 0)
        ops.gemm(target, error, l, {
          window: { rows, columns: [0, start] },
          aWindow: { rows, columns: [start, end] },
          bWindow: { rows: [start, end], columns: [0, start] },
          beta: 1,
        })
    end = start
    await done(n - start)
  }
  target[Symbol.dispose]()
  error[Symbol.dispose]()
  if (!codes) throw new Error('ldlq: no columns')
  using flat = codes
  return { codes: ops.reshape(flat, [(m / Tx) * (n / Ty), perTile]), values }
}
