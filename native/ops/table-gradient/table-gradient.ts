import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * The gradient by the entries of a code's table, added into `into` f32 [rows, V], in place: every weight gives its own to
 * the entry it was read from. codes u16 [tiles, steps], tiles row-major over [m, n] padded to whole tiles of Tx × Ty;
 * index i32 [states]: the row of each state, plus 2¹⁶ where its first component is negated; dValues f32 [m, n].
 * order i32 [Tx·Ty]: the place in a tile's sequence of each of its weights, row by row; left out: row-major as well. A code or
 * a row beyond its table fails the queue; on CUDA it makes all of `into` NaN.
 */
export const addTableGradient =
  (device: Device) =>
  (into: Tensor, codes: Tensor, index: Tensor, dValues: Tensor, o: { tile: readonly [number, number]; order?: Tensor }): void => {
    const [rows, V] = expectMatrix('addTableGradient', 'into', into, ['f32'])
    const [m, n] = expectMatrix('addTableGradient', 'dValues', dValues, ['f32'])
    const [Tx, Ty] = o.tile
    if (Ty % V !== 0) throw new RangeError(`addTableGradient: tiles of ${Ty} columns do not divide into entries of ${V}`)
    expectTensor('addTableGradient', 'codes', codes, ['u16'], [Math.ceil(m / Tx) * Math.ceil(n / Ty), (Tx * Ty) / V])
    if (o.order) expectTensor('addTableGradient', 'order', o.order, ['i32'], [Tx * Ty])
    expectTensor('addTableGradient', 'index', index, ['i32'], [undefined])
    device.run('table_gradient', { codes, index, order: o.order, dValues, into, m, n, Tx, Ty, V, rows, states: index.size })
  }
