import type { Device } from '../../device.js'
import { expectMatrix, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

export interface AttentionOptions {
  heads: number
  kvHeads: number
  length: number
  window?: number
  scale: number
}

/**
 * Causal attention within sequences of `length` rows; q [t, heads·e], k and v [t, kvHeads·e] → [t, heads·e], all f32 or all bf16;
 * window: keys at a distance below it only.
 */
export const attention =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, o: AttentionOptions): Tensor => {
    const { heads, kvHeads, length, window = 0, scale } = o
    expectWhole('attention', 'kvHeads', kvHeads, 1)
    expectWhole('attention', 'heads', heads, kvHeads)
    expectWhole('attention', 'length', length, 1)
    if (o.window !== undefined) expectWhole('attention', 'window', o.window, 1)
    const [t, n] = expectMatrix('attention', 'q', q, ['f32', 'bf16'])
    const e = n / heads
    if (!Number.isInteger(e) || heads % kvHeads !== 0)
      throw new RangeError(`attention: ${n} columns, ${heads} heads, ${kvHeads} of keys do not divide`)
    if (t % length !== 0) throw new RangeError(`attention: ${t} rows are no whole number of sequences of ${length}`)
    expectMatrix('attention', 'k', k, [q.dtype], [t, kvHeads * e])
    expectMatrix('attention', 'v', v, [q.dtype], [t, kvHeads * e])
    const out = device.empty(q.dtype, q.shape)
    device.run('attention', { q, k, v, out, t, heads, kvHeads, e, length, window, scale, bf16: q.dtype === 'bf16' })
    return out
  }
