import type { Device } from '../../device.js'
import { expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

export interface AdamOptions {
  /** 1 for the first. */
  step: number
  rate: number
  beta1?: number
  beta2?: number
  eps?: number
}

/**
 * One step of Adam, in place: value, gradient, and its moments m and v (zeros before the first step), f32 of one shape.
 * The gradient stays as it is. Kingma and Ba (arXiv:1412.6980), algorithm 1; no weight decay.
 */
export const adam =
  (device: Device) =>
  (value: Tensor, gradient: Tensor, m: Tensor, v: Tensor, o: AdamOptions): void => {
    const { step, rate, beta1 = 0.9, beta2 = 0.999, eps = 1e-8 } = o
    expectTensor('adam', 'value', value, ['f32'])
    for (const [name, x] of Object.entries({ gradient, m, v })) expectTensor('adam', name, x, ['f32'], value.shape)
    expectWhole('adam', 'step', step, 1)
    device.run('adam', { value, gradient, m, v, n: value.size, step, rate, beta1, beta2, eps })
  }
