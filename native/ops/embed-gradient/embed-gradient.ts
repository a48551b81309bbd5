import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** into[ids[i], :] += dy[i, :], in place, i in order: the gradient by a table that `embed` read. into f32 [v, d], ids i32 [t], dy f32 [t, d]. An id that is no row fails the queue. */
export const addEmbedGradient =
  (device: Device) =>
  (into: Tensor, ids: Tensor, dy: Tensor): void => {
    const [v, d] = expectMatrix('addEmbedGradient', 'into', into, ['f32'])
    const [t] = expectMatrix('addEmbedGradient', 'dy', dy, ['f32'], [undefined, d])
    expectTensor('addEmbedGradient', 'ids', ids, ['i32'], [t])
    device.run('embed_gradient', { dy, ids, into, t, v, d })
  }
