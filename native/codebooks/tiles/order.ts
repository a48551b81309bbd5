/** Tiles whose weights follow each other in another order than row by row. */
import type { Ops } from '../../ops.js'
import type { Tensor } from '../../tensor.js'

/** The two directions between tiles as a matrix holds them and as a code walks them: z f32 [m, Ty], m a multiple of Tx. */
export interface TileOrder extends Disposable {
  toSequence(z: Tensor): Tensor
  fromSequence(z: Tensor): Tensor
}

/**
 * order: row·Ty + column of the weight at each place of the sequence. A tile is a row of z as [m/Tx, Tx·Ty], and changes
 * places by a product with a permutation matrix, which f32 leaves exact: a hundredth of a search's work.
 */
export const tileOrder = (ops: Ops, Ty: number, order: readonly number[]): TileOrder => {
  const T = order.length
  const ones = new Float32Array(T * T)
  for (const [p, at] of order.entries()) ones[p * T + at] = 1
  const permutation = ops.tensor(ones, [T, T])
  const moved = (z: Tensor, transposeB: boolean): Tensor => {
    using tiles = ops.reshape(z, [z.size / T, T])
    using out = ops.matmul(tiles, permutation, { transposeB })
    return ops.reshape(out, [z.size / Ty, Ty])
  }
  return {
    toSequence: z => moved(z, true),
    fromSequence: z => moved(z, false),
    [Symbol.dispose]: () => permutation[Symbol.dispose](),
  }
}
