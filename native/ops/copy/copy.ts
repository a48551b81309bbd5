import type { Device } from '../../device.js'
import { expectMatrix, expectWindow } from '../../expect.js'
import { bytesPerElement, type Tensor, type Window } from '../../tensor.js'

/** A copy of a rectangle of the matrix x [m, n], whichever its dtype; without a window, of all of x, whichever its shape. */
export const copy =
  (device: Device) =>
  (x: Tensor, window?: Window): Tensor => {
    const [m, n] = window ? expectMatrix('copy', 'x', x) : ([1, x.size] as const)
    const w = expectWindow('copy', 'window', window, m, n)
    const into = device.empty(x.dtype, window ? [w.rows, w.columns] : x.shape)
    const size = bytesPerElement[x.dtype]
    device.run('paste', {
      x,
      into,
      xOffset: w.offset * size,
      xStride: n * size,
      intoOffset: 0,
      intoStride: w.columns * size,
      rows: w.rows,
      rowBytes: w.columns * size,
    })
    return into
  }
