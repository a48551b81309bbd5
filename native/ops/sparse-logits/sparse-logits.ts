import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * Logits f32 [t, v] of a distribution of which k classes are known (indices i32 [t, k], their log P values f32 [t, k], as
 * `topK` gives them) and of the others their sum alone (log: rest f32 [t]), which is shared among them as `like` f32 [t, v] has it:
 *
 *   out[i, j] = values[i, c] where j = indices[i, c];  like[i, j] − log Σ_o e^like[i, o] + rest[i] elsewhere, o over all elsewhere
 *
 * KL(softmax(out) ‖ softmax(like)) is that of k + 1 classes, the others being one; klGradient gives its gradient by `like`.
 * Values and rest count as −200 at least; the others' shares of rest may be below. An index that is no class fails the queue; on
 * CUDA it makes the row NaN.
 */
export const sparseLogits =
  (device: Device) =>
  ({ indices, values, rest }: { indices: Tensor; values: Tensor; rest: Tensor }, like: Tensor): Tensor => {
    const [t, v] = expectMatrix('sparseLogits', 'like', like, ['f32'])
    const [, k] = expectMatrix('sparseLogits', 'indices', indices, ['i32'], [t, undefined])
    expectMatrix('sparseLogits', 'values', values, ['f32'], [t, k])
    expectTensor('sparseLogits', 'rest', rest, ['f32'], [t])
    const out = device.empty('f32', [t, v])
    device.run('sparse_logits', { indices, values, rest, like, out, t, v, k })
    return out
  }
