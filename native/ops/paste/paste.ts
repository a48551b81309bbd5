import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import { bytesPerElement, type Tensor } from '../../tensor.js'

/** into[row:, column:] = x, in place; x and into are matrices of one dtype, whichever. */
export const paste =
  (device: Device) =>
  (into: Tensor, x: Tensor, at: { row?: number; column?: number }): void => {
    const [rows, columns] = expectMatrix('paste', 'x', x, [into.dtype])
    const [m, n] = expectMatrix('paste', 'into', into)
    const { row = 0, column = 0 } = at
    const whole = Number.isInteger(row) && Number.isInteger(column) && row >= 0 && column >= 0
    if (!whole || row + rows > m || column + columns > n) {
      throw new RangeError(`paste: x [${rows}, ${columns}] at row ${row}, column ${column} does not fit into [${m}, ${n}]`)
    }
    if (into === x) throw new Error('paste: x and into are the same tensor')
    const size = bytesPerElement[x.dtype]
    device.run('paste', {
      x,
      into,
      xOffset: 0,
      xStride: columns * size,
      intoOffset: (row * n + column) * size,
      intoStride: n * size,
      rows,
      rowBytes: columns * size,
    })
  }
