import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * The k most likely of v classes, P = softmax(logits[i, :]), logits f32 [t, v], 1 ≤ k ≤ v, k ≤ 1024:
 *
 *   indices  i32 [t, k]  those with the largest logits, the largest first; of equal ones the lowest class first
 *   values   f32 [t, k]  log P of them
 *   rest     f32 [t]     log Σ P of the others; −∞ where there are none
 */
export const topK =
  (device: Device) =>
  (logits: Tensor, k: number): { indices: Tensor; values: Tensor; rest: Tensor } => {
    const [t, v] = expectMatrix('topK', 'logits', logits, ['f32'])
    if (!Number.isInteger(k) || k < 1 || k > Math.min(v, 1024))
      throw new RangeError(`topK: k must be from 1 to ${Math.min(v, 1024)}, got ${k}`)
    const [indices, values, rest] = [device.empty('i32', [t, k]), device.empty('f32', [t, k]), device.empty('f32', [t])]
    device.run('top_k', { logits, indices, values, rest, t, v, k })
    return { indices, values, rest }
  }
