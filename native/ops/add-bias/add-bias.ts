import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** x[t, :] + bias, x f32 [t, n], bias f32 [n]. */
export const addBias =
  (device: Device) =>
  (x: Tensor, bias: Tensor): Tensor => {
    const [t, n] = expectMatrix('addBias', 'x', x, ['f32'])
    expectTensor('addBias', 'bias', bias, ['f32'], [n])
    const out = device.empty('f32', x.shape)
    device.run('add_bias', { x, bias, out, t, n })
    return out
  }
