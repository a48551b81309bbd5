import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** x[t, :] + bias, x f32 or bf16 [t, n], bias f32 [n]; of the type of x. */
export const addBias =
  (device: Device) =>
  (x: Tensor, bias: Tensor): Tensor => {
    const [t, n] = expectMatrix('addBias', 'x', x, ['f32', 'bf16'])
    expectTensor('addBias', 'bias', bias, ['f32'], [n])
    const out = device.empty(x.dtype, x.shape)
    device.run('add_bias', { x, bias, out, t, n, bf16: x.dtype === 'bf16' })
    return out
  }
