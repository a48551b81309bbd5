import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** out = alpha·x + beta·y elementwise, f32; x and y have one shape. */
export const add =
  (device: Device) =>
  (x: Tensor, y: Tensor, o: { alpha?: number; beta?: number } = {}): Tensor => {
    expectTensor('add', 'x', x, ['f32'])
    expectTensor('add', 'y', y, ['f32'], x.shape)
    const out = device.empty('f32', x.shape)
    device.run('add', { x, y, out, n: x.size, alpha: o.alpha ?? 1, beta: o.beta ?? 1 })
    return out
  }
