import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import { bytesPerElement, type Tensor } from '../../tensor.js'
import { cast } from '../cast/cast.js'

/** Rows of table [v, d] (any float type) → f32 [t, d]; ids i32 [t]. An id that is no row fails the queue. */
export const embed = (device: Device) => {
  const convert = cast(device)
  return (table: Tensor, ids: Tensor): Tensor => {
    const [v, d] = expectMatrix('embed', 'table', table, ['f32', 'f16', 'bf16', 'f64'])
    expectTensor('embed', 'ids', ids, ['i32'], [undefined])
    const widen = table.dtype === 'bf16'
    const rows = device.empty(widen ? 'f32' : table.dtype, [ids.size, d])
    device.run('embed', { table, ids, out: rows, t: ids.size, v, bytes: d * bytesPerElement[table.dtype], widen })
    if (rows.dtype === 'f32') return rows
    using stored = rows
    return convert(stored, 'f32')
  }
}
