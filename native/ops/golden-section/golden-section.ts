import type { Device } from '../../device.js'
import { expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * The s in [low, high] with the least sum(s)/s², by golden section in `points` measurements: f64 [1]. `measure` gets s, f64 [1],
 * and gives the sum, f64 [1], as tensors: all is enqueued at once, and nothing is read in between.
 */
export const goldenSection =
  (device: Device) =>
  ([low, high]: readonly [number, number], points: number, measure: (s: Tensor) => Tensor): Tensor => {
    expectWhole('goldenSection', 'points', points, 2)
    if (!(low > 0 && high > low && high < Number.POSITIVE_INFINITY))
      throw new RangeError(`goldenSection: [${low}, ${high}] is no interval above 0`)
    using search = device.empty('f64', [7])
    const point = device.empty('f64', [1])
    device.run('golden_section', { search, point, low, high, step: 0, last: false })
    for (let step = 1; step <= points; step++) {
      using sum = measure(point)
      expectTensor('goldenSection', 'sum', sum, ['f64'], [1])
      device.run('golden_section', { search, sum, point, low, high, step, last: step === points })
    }
    return point
  }
