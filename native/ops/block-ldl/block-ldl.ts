import type { Device } from '../../device.js'
import { expectSquare, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * Block LDLᵀ of the symmetric H f32 [n, n] with block b, H = (L + I)·blockdiag(D)·(L + I)ᵀ: L f32 [n, n] block lower
 * triangular, its diagonal blocks 0, and `pivot` f64 [2]: [−1, 0], or [the first row whose pivot is not positive, that pivot],
 * and then L is all 0. QuIP# (arXiv:2402.04396) section 4.1.
 */
export const blockLdl =
  (device: Device) =>
  (h: Tensor, block: number): { l: Tensor; pivot: Tensor } => {
    const n = expectSquare('blockLdl', 'h', h, ['f32'])
    expectWhole('blockLdl', 'block', block, 1)
    if (n % block !== 0) throw new RangeError(`blockLdl: block ${block} does not divide ${n}`)
    const [l, pivot] = [device.empty('f32', [n, n]), device.empty('f64', [2])]
    device.run('block_ldl', { h, l, pivot, n, block })
    return { l, pivot }
  }
