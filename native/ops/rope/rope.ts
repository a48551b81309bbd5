import type { Device } from '../../device.js'
import { expectMatrix, expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * Rotary embedding, halves: x f32 [t, heads·e], cos and sin f32 [positions, e/2]; positions i32 [t]. A position without
 * cosines fails the queue.
 */
export const rope =
  (device: Device) =>
  (x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, o: { heads: number }): Tensor => {
    const [t, n] = expectMatrix('rope', 'x', x, ['f32'])
    expectWhole('rope', 'heads', o.heads, 1)
    const [length, half] = expectMatrix('rope', 'cos', cos, ['f32'], [undefined, n / o.heads / 2])
    expectTensor('rope', 'sin', sin, ['f32'], cos.shape)
    expectTensor('rope', 'positions', positions, ['i32'], [t])
    const out = device.empty('f32', x.shape)
    device.run('rope', { x, cos, sin, positions, out, t, heads: o.heads, half, length })
    return out
  }
