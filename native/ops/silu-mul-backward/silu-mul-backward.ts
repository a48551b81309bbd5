import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** The gradients by gate and up of siluMul(gate, up), from dy of their shape. */
export const siluMulBackward =
  (device: Device) =>
  (gate: Tensor, up: Tensor, dy: Tensor): { dGate: Tensor; dUp: Tensor } => {
    expectTensor('siluMulBackward', 'gate', gate, ['f32'])
    expectTensor('siluMulBackward', 'up', up, ['f32'], gate.shape)
    expectTensor('siluMulBackward', 'dy', dy, ['f32'], gate.shape)
    const [dGate, dUp] = [device.empty('f32', gate.shape), device.empty('f32', gate.shape)]
    device.run('silu_mul_backward', { gate, up, dy, dGate, dUp, n: gate.size })
    return { dGate, dUp }
  }
