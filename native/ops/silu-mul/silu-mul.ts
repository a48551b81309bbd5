import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** silu(gate) ⊙ up, f32 of one shape; silu(z) = z / (1 + e^−z). */
export const siluMul =
  (device: Device) =>
  (gate: Tensor, up: Tensor): Tensor => {
    expectTensor('siluMul', 'gate', gate, ['f32'])
    expectTensor('siluMul', 'up', up, ['f32'], gate.shape)
    const out = device.empty('f32', gate.shape)
    device.run('silu_mul', { gate, up, out, n: gate.size })
    return out
  }
