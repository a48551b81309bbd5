import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** silu(gate) ⊙ up, both f32 or both bf16, of one shape; silu(z) = z / (1 + e^−z), in f32. */
export const siluMul =
  (device: Device) =>
  (gate: Tensor, up: Tensor): Tensor => {
    expectTensor('siluMul', 'gate', gate, ['f32', 'bf16'])
    expectTensor('siluMul', 'up', up, [gate.dtype], gate.shape)
    const out = device.empty(gate.dtype, gate.shape)
    device.run('silu_mul', { gate, up, out, n: gate.size, bf16: gate.dtype === 'bf16' })
    return out
  }
