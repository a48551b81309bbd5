import type { Device } from '../../device.js'
import { expectHeads, expectMatrix, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

export interface AttentionOptions {
  heads: number
  kvHeads: number
  length: number
  window?: number
  scale: number
}

/** Checks the inputs of attention and of its way back; gives the arguments that both ops have in common. */
export const expectAttention = (op: string, q: Tensor, k: Tensor, v: Tensor, o: AttentionOptions) => {
  const { heads, kvHeads, length, window = 0, scale } = o
  const { t, e } = expectHeads(op, q, ['f32', 'bf16'], o)
  expectWhole(op, 'length', length, 1)
  if (t % length !== 0) throw new RangeError(`${op}: ${t} rows are no whole number of sequences of ${length}`)
  expectMatrix(op, 'k', k, [q.dtype], [t, kvHeads * e])
  expectMatrix(op, 'v', v, [q.dtype], [t, kvHeads * e])
  return { q, k, v, t, heads, kvHeads, e, length, window, scale, bf16: q.dtype === 'bf16' }
}

/**
 * Causal attention within sequences of `length` rows; q [t, heads·e], k and v [t, kvHeads·e] → [t, heads·e], all f32 or all bf16, or
 * f32 of bf16 (dtype); window: keys at a distance below it only.
 */
export const attention =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, o: AttentionOptions & { dtype?: 'f32' | 'bf16' }): Tensor => {
    const args = expectAttention('attention', q, k, v, o)
    const { dtype = q.dtype } = o
    if (dtype !== q.dtype && dtype !== 'f32') throw new RangeError('attention: what it gives of f32 is f32')
    const out = device.empty(dtype, q.shape)
    device.run('attention', { ...args, out, wide: dtype === 'f32' })
    return out
  }
