import type { Device } from '../../device.js'
import { expectMatrix, expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * Rotary embedding, halves: x f32 or bf16 [t, heads·e], cos and sin f32 [length, e/2]; positions i32 [t], a position
 * without cosines fails the queue. Without positions x is sequences of `length` rows one after the other: nothing has to
 * be looked at on the host, so a GPU need not wait.
 */
export const rope =
  (device: Device) =>
  (x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | undefined, o: { heads: number }): Tensor => {
    const [t, n] = expectMatrix('rope', 'x', x, ['f32', 'bf16'])
    expectWhole('rope', 'heads', o.heads, 1)
    const [length, half] = expectMatrix('rope', 'cos', cos, ['f32'], [undefined, n / o.heads / 2])
    expectTensor('rope', 'sin', sin, ['f32'], cos.shape)
    if (positions !== undefined) expectTensor('rope', 'positions', positions, ['i32'], [t])
    const out = device.empty(x.dtype, x.shape)
    device.run('rope', { x, cos, sin, positions, out, t, heads: o.heads, half, length, bf16: x.dtype === 'bf16' })
    return out
  }
