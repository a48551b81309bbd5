import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import { bytesPerElement, type Tensor } from '../../tensor.js'

/** x [m, n] → [n, m], any dtype. */
export const transpose =
  (device: Device) =>
  (x: Tensor): Tensor => {
    const [m, n] = expectMatrix('transpose', 'x', x)
    const out = device.empty(x.dtype, [n, m])
    device.run('transpose', { x, out, m, n, size: bytesPerElement[x.dtype] })
    return out
  }
