import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** f32 [t]: KL(softmax(p[t]) ‖ softmax(q[t])) in nats; p, q f32 [t, v]. */
export const klDivergence =
  (device: Device) =>
  (p: Tensor, q: Tensor): Tensor => {
    const [t, v] = expectMatrix('klDivergence', 'p', p, ['f32'])
    expectMatrix('klDivergence', 'q', q, ['f32'], [t, v])
    const out = device.empty('f32', [t])
    device.run('kl_divergence', { p, q, out, t, v })
    return out
  }
