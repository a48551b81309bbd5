/** Training the table of a code whose codes are fixed. QTIP (arXiv:2406.11235) section 5 leaves it out; its code has it as an option. */
import type { TableTraining } from '../../codebook.js'
import { expectTensor } from '../../expect.js'
import type { Ops } from '../../ops.js'
import type { Tensor } from '../../tensor.js'
import { decodeTiles, type TileShape } from '../tiles/tiles.js'
import type { Lookup } from './codes.js'

/** What a codec offers as `training`; what it needs on the device is made when it is first used. */
export const tableTraining = (ops: Ops, name: string, shape: TileShape, lookup: Lookup): TableTraining & Disposable => {
  const { L, V, Tx, Ty, order } = shape
  let made: { index: Tensor; order?: Tensor } | undefined
  const onDevice = () => {
    if (made === undefined) {
      const index = Int32Array.from({ length: 2 ** L }, (_, s) => lookup.index(s))
      const place = new Int32Array(Tx * Ty)
      for (const [p, at] of order?.entries() ?? []) place[at] = p
      made = { index: ops.tensor(index, [2 ** L]), ...(order && { order: ops.tensor(place, [Tx * Ty]) }) }
    }
    return made
  }
  return {
    decode(codes, m, n, entries) {
      expectTensor(name, lookup.name, entries, ['f32'], [lookup.rows, V])
      using table = ops.device.empty('f32', [2 ** L, V])
      ops.device.run('tiles_table', { entries, index: onDevice().index, table, rows: lookup.rows, states: 2 ** L, V })
      const whole = decodeTiles(ops, shape, table, codes, Math.ceil(m / Tx) * Tx, Math.ceil(n / Ty) * Ty)
      if (m % Tx === 0 && n % Ty === 0) return whole
      using padded = whole
      return ops.copy(padded, { rows: [0, m], columns: [0, n] })
    },
    addGradient(into, codes, dValues) {
      expectTensor(name, 'into', into, ['f32'], [lookup.rows, V])
      const { index, order } = onDevice()
      ops.addTableGradient(into, codes, index, dValues, { tile: [Tx, Ty], ...(order && { order }) })
    },
    [Symbol.dispose]() {
      for (const x of [made?.index, made?.order]) x?.[Symbol.dispose]()
    },
  }
}
