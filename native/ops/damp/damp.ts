import type { Device } from '../../device.js'
import { expectSquare } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** H f32 [n, n] → damped copy: H + damp·mean(diag H)·I. */
export const damp =
  (device: Device) =>
  (h: Tensor, damp: number): Tensor => {
    const n = expectSquare('damp', 'h', h, ['f32'])
    const out = device.empty('f32', [n, n])
    device.run('damp', { h, out, n, damp })
    return out
  }
