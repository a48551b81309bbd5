import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * h [n, n] += xᵀ x, in place, x [t, n]. x f32: h f64, products in f32 over at most 512 tokens, sums in f64; h stays symmetric.
 * x bf16: h f32, sums in f32, on and above the diagonal only (mirror completes it). Rows with a non-finite element are left
 * out and added to `skipped` f64 [1]; in a bf16 x they are set to 0.
 */
export const gram =
  (device: Device) =>
  (h: Tensor, x: Tensor, skipped: Tensor): void => {
    const [t, n] = expectMatrix('gram', 'x', x, ['f32', 'bf16'])
    const bf16 = x.dtype === 'bf16'
    expectTensor('gram', 'h', h, [bf16 ? 'f32' : 'f64'], [n, n])
    expectTensor('gram', 'skipped', skipped, ['f64'], [1])
    device.run('gram', { h, x, skipped, t, n, bf16 })
  }
