import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import { type AttentionOptions, expectAttention } from '../attention/attention.js'

/**
 * The gradients by q, k and v of attention(q, k, v, o), f32, from dy of q's shape; inputs all f32 or all bf16. The
 * probabilities are made again, a block of queries at a time.
 */
export const attentionBackward =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, dy: Tensor, o: AttentionOptions): { dq: Tensor; dk: Tensor; dv: Tensor } => {
    const args = expectAttention('attentionBackward', q, k, v, o)
    expectMatrix('attentionBackward', 'dy', dy, [q.dtype], q.shape)
    const [dq, dk, dv] = [device.empty('f32', q.shape), device.empty('f32', k.shape), device.empty('f32', v.shape)]
    device.run('attention_backward', { ...args, dy, dq, dk, dv })
    return { dq, dk, dv }
  }
