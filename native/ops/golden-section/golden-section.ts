import type { Device } from '../../device.js'
import { expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * The s in [low, high] with the least sum(s)/s², by golden section in `points` measurements: f64 [1]. `measure` gets s, f64 [1],
 * and gives the sum, f64 [1], as tensors: all is enqueued at once, and nothing is read in between. The s that is found comes
 * times √max(1 − shrink·sum(s)/s², ¼).
 */
export const goldenSection =
  (device: Device) =>
  ([low, high]: readonly [number, number], points: number, measure: (s: Tensor) => Tensor, shrink = 0): Tensor => {
    expectWhole('goldenSection', 'points', points, 2)
    if (!(low > 0 && high > low && high < Number.POSITIVE_INFINITY))
      throw new RangeError(`goldenSection: [${low}, ${high}] is no interval above 0`)
    if (!(shrink >= 0)) throw new RangeError(`goldenSection: shrink must be at least 0, got ${shrink}`)
    using search = device.empty('f64', [7])
    const point = device.empty('f64', [1])
    device.run('golden_section', { search, point, low, high, shrink, step: 0, last: false })
    for (let step = 1; step <= points; step++) {
      using sum = measure(point)
      expectTensor('goldenSection', 'sum', sum, ['f64'], [1])
      device.run('golden_section', { search, sum, point, low, high, shrink, step, last: step === points })
    }
    return point
  }
