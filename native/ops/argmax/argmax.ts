import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** i32 [t]: where each row of x f32 [t, v] is largest; of equal elements the first. */
export const argmax =
  (device: Device) =>
  (x: Tensor): Tensor => {
    const [t, v] = expectMatrix('argmax', 'x', x, ['f32'])
    const out = device.empty('i32', [t])
    device.run('argmax', { x, out, t, v })
    return out
  }
