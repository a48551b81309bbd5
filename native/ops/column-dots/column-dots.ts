import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** into[j] += Σ_t x[t, j]·y[t, j], in place; x and y f32 [t, n], into f32 [n]; y left out: all 1, so column sums. */
export const addColumnDots =
  (device: Device) =>
  (into: Tensor, x: Tensor, y?: Tensor): void => {
    const [t, n] = expectMatrix('addColumnDots', 'x', x, ['f32'])
    if (y) expectMatrix('addColumnDots', 'y', y, ['f32'], [t, n])
    expectTensor('addColumnDots', 'into', into, ['f32'], [n])
    device.run('column_dots', { x, y, into, t, n })
  }
