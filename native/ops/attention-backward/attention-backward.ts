import type { Device } from '../../device.js'
import { expectMatrix, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import type { AttentionOptions } from '../attention/attention.js'

/**
 * The gradients by q, k and v of attention(q, k, v, o), f32, from dy of q's shape; inputs all f32 or all bf16. The
 * probabilities are made again, a block of queries at a time.
 */
export const attentionBackward =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, dy: Tensor, o: AttentionOptions): { dq: Tensor; dk: Tensor; dv: Tensor } => {
    const { heads, kvHeads, length, window = 0, scale } = o
    expectWhole('attentionBackward', 'kvHeads', kvHeads, 1)
    expectWhole('attentionBackward', 'heads', heads, kvHeads)
    expectWhole('attentionBackward', 'length', length, 1)
    if (o.window !== undefined) expectWhole('attentionBackward', 'window', o.window, 1)
    const [t, n] = expectMatrix('attentionBackward', 'q', q, ['f32', 'bf16'])
    const e = n / heads
    if (!Number.isInteger(e) || heads % kvHeads !== 0)
      throw new RangeError(`attentionBackward: ${n} columns, ${heads} heads, ${kvHeads} of keys do not divide`)
    if (t % length !== 0) throw new RangeError(`attentionBackward: ${t} rows are no whole number of sequences of ${length}`)
    expectMatrix('attentionBackward', 'k', k, [q.dtype], [t, kvHeads * e])
    expectMatrix('attentionBackward', 'v', v, [q.dtype], [t, kvHeads * e])
    expectMatrix('attentionBackward', 'dy', dy, [q.dtype], [t, n])
    const [dq, dk, dv] = [device.empty('f32', q.shape), device.empty('f32', k.shape), device.empty('f32', v.shape)]
    device.run('attention_backward', { q, k, v, dy, dq, dk, dv, t, heads, kvHeads, e, length, window, scale, bf16: q.dtype === 'bf16' })
    return { dq, dk, dv }
  }
