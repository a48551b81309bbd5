import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * x / sqrt(mean(x²) + eps) · weight, over groups of weight's length along the last axis of x f32 or bf16 [t, n]; weight
 * f32 [w], w divides n. The result is of the type of x unless `dtype` names one.
 */
export const rmsnorm =
  (device: Device) =>
  (x: Tensor, weight: Tensor, o: { eps: number; dtype?: 'f32' | 'bf16' }): Tensor => {
    expectTensor('rmsnorm', 'x', x, ['f32', 'bf16'])
    expectTensor('rmsnorm', 'weight', weight, ['f32'], [undefined])
    const last = x.shape[x.shape.length - 1] ?? 0
    if (last % weight.size !== 0) throw new RangeError(`rmsnorm: rows of ${last} can't be cut into groups of ${weight.size}`)
    const out = device.empty(o.dtype ?? x.dtype, x.shape)
    device.run('rmsnorm', {
      x,
      weight,
      out,
      rows: x.size / weight.size,
      n: weight.size,
      eps: o.eps,
      xBf16: x.dtype === 'bf16',
      outBf16: out.dtype === 'bf16',
    })
    return out
  }
