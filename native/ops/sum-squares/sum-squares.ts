import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** f64 [1]: Σ x², x f32 of any shape. */
export const sumSquares =
  (device: Device) =>
  (x: Tensor): Tensor => {
    expectTensor('sumSquares', 'x', x, ['f32'])
    const out = device.empty('f64', [1])
    device.run('sum_squares', { x, out, n: x.size })
    return out
  }
