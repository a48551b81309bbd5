import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import { bytesPerElement, type Tensor } from '../../tensor.js'

/** Matrices of one dtype and one width, one below the other. */
export const concat =
  (device: Device) =>
  (rows: readonly Tensor[]): Tensor => {
    const first = rows[0]
    if (first === undefined) throw new RangeError('concat: there are no tensors')
    const [, columns] = expectMatrix('concat', 'rows[0]', first)
    let m = 0
    for (const [i, x] of rows.entries()) m += expectMatrix('concat', `rows[${i}]`, x, [first.dtype], [undefined, columns])[0]
    const into = device.empty(first.dtype, [m, columns])
    const stride = columns * bytesPerElement[first.dtype]
    let intoOffset = 0
    for (const x of rows) {
      device.run('paste', { x, into, xOffset: 0, xStride: stride, intoOffset, intoStride: stride, rows: x.shape[0]!, rowBytes: stride })
      intoOffset += x.bytes
    }
    return into
  }
