import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** into = x, in place, whichever dtype and shape they have in common. */
export const assign =
  (device: Device) =>
  (into: Tensor, x: Tensor): void => {
    expectTensor('assign', 'x', x, [into.dtype], into.shape)
    if (into === x) throw new Error('assign: x and into are the same tensor')
    device.run('paste', { x, into, xOffset: 0, xStride: x.bytes, intoOffset: 0, intoStride: x.bytes, rows: 1, rowBytes: x.bytes })
  }
