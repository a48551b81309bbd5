import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import { bytesPerElement, type Tensor } from '../../tensor.js'

/** Rows of table [v, d] (any float type, and the result's) → [t, d]; ids i32 [t]. An id that is no row fails the queue. */
export const embed = (device: Device) => (table: Tensor, ids: Tensor): Tensor => {
  const [v, d] = expectMatrix('embed', 'table', table, ['f32', 'f16', 'bf16', 'f64'])
  expectTensor('embed', 'ids', ids, ['i32'], [undefined])
  const out = device.empty(table.dtype, [ids.size, d])
  device.run('embed', { table, ids, out, t: ids.size, v, bytes: d * bytesPerElement[table.dtype] })
  return out
}
