import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** x / sqrt(mean(x²) + eps) · weight, over groups of weight's length along the last axis of x f32 [t, n]; weight f32 [w], w divides n. */
export const rmsnorm =
  (device: Device) =>
  (x: Tensor, weight: Tensor, o: { eps: number }): Tensor => {
    expectTensor('rmsnorm', 'x', x, ['f32'])
    expectTensor('rmsnorm', 'weight', weight, ['f32'], [undefined])
    const last = x.shape[x.shape.length - 1] ?? 0
    if (last % weight.size !== 0) throw new RangeError(`rmsnorm: rows of ${last} can't be cut into groups of ${weight.size}`)
    const out = device.empty('f32', x.shape)
    device.run('rmsnorm', { x, weight, out, rows: x.size / weight.size, n: weight.size, eps: o.eps })
    return out
  }
