import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * h f64 [n, n] += xᵀ x, x f32 [t, n], in place: products in f32 over at most 512 tokens, sums in f64; h stays symmetric.
 * Rows with a non-finite element are left out and added to `skipped` f64 [1].
 */
export const gram =
  (device: Device) =>
  (h: Tensor, x: Tensor, skipped: Tensor): void => {
    const [t, n] = expectMatrix('gram', 'x', x, ['f32'])
    expectTensor('gram', 'h', h, ['f64'], [n, n])
    expectTensor('gram', 'skipped', skipped, ['f64'], [1])
    device.run('gram', { h, x, skipped, t, n })
  }
