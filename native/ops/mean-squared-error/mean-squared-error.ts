import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import { add } from '../add/add.js'
import { sumSquares } from '../sum-squares/sum-squares.js'

/**
 * y and target f32 of one shape, n elements. sum f64 [1]: Σ(y − target)², n times the mean; gradient, that of the mean:
 * 2/n · (y − target) · factor.
 */
export const meanSquaredError = (device: Device) => {
  const [combine, squares] = [add(device), sumSquares(device)]
  return (y: Tensor, target: Tensor, o: { factor?: number } = {}): { sum: Tensor; gradient: Tensor } => {
    expectTensor('meanSquaredError', 'y', y, ['f32'])
    expectTensor('meanSquaredError', 'target', target, ['f32'], y.shape)
    const slope = (2 / y.size) * (o.factor ?? 1)
    using difference = combine(y, target, { beta: -1 })
    return { sum: squares(difference), gradient: combine(y, target, { alpha: slope, beta: -slope }) }
  }
}
