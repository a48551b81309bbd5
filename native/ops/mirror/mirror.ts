import type { Device } from '../../device.js'
import { expectSquare } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** h f32 [n, n] made symmetric, in place: factor · its elements on and above the diagonal, and their mirror images. */
export const mirror =
  (device: Device) =>
  (h: Tensor, o: { factor?: number } = {}): void => {
    device.run('mirror', { h, n: expectSquare('mirror', 'h', h, ['f32']), factor: o.factor ?? 1 })
  }
