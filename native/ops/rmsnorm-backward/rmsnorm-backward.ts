import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** dx of rmsnorm(x, weight), from dy of its shape; adds the weight's gradient into `gradient` f32 [w], in place. */
export const rmsnormBackward =
  (device: Device) =>
  (x: Tensor, weight: Tensor, dy: Tensor, gradient: Tensor, o: { eps: number }): Tensor => {
    expectTensor('rmsnormBackward', 'x', x, ['f32'])
    expectTensor('rmsnormBackward', 'weight', weight, ['f32'], [undefined])
    expectTensor('rmsnormBackward', 'dy', dy, ['f32'], x.shape)
    expectTensor('rmsnormBackward', 'gradient', gradient, ['f32'], weight.shape)
    const last = x.shape[x.shape.length - 1] ?? 0
    if (last % weight.size !== 0) throw new RangeError(`rmsnormBackward: rows of ${last} can't be cut into groups of ${weight.size}`)
    const dx = device.empty('f32', x.shape)
    device.run('rmsnorm_backward', { x, weight, dy, dx, gradient, rows: x.size / weight.size, n: weight.size, eps: o.eps })
    return dx
  }
