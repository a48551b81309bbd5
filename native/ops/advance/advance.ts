import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** ids = best (0 where that is none: −1) and positions += 1, in place, i32 [t] each: the step after this one can follow without the host. */
export const advance =
  (device: Device) =>
  (ids: Tensor, positions: Tensor, best: Tensor): void => {
    expectTensor('advance', 'best', best, ['i32'])
    expectTensor('advance', 'ids', ids, ['i32'], best.shape)
    expectTensor('advance', 'positions', positions, ['i32'], best.shape)
    if (new Set([ids, positions, best]).size < 3) throw new Error('advance: ids, positions and best must be three tensors')
    device.run('advance', { ids, positions, best, t: best.size })
  }
