import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** f64 [2]: [tr((w−v) h (w−v)ᵀ), tr(w h wᵀ)], w, v f32 [m, n], h f32 [n, n] symmetric. */
export const proxyError =
  (device: Device) =>
  (w: Tensor, v: Tensor, h: Tensor): Tensor => {
    const [m, n] = expectMatrix('proxyError', 'w', w, ['f32'])
    expectTensor('proxyError', 'v', v, ['f32'], [m, n])
    expectTensor('proxyError', 'h', h, ['f32'], [n, n])
    const out = device.empty('f64', [2])
    device.run('proxy_error', { w, v, h, out, m, n })
    return out
  }
