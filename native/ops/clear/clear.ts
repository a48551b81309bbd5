import type { Device } from '../../device.js'
import type { Tensor } from '../../tensor.js'

/** x = 0, in place. */
export const clear =
  (device: Device) =>
  (x: Tensor): void => {
    device.run('zeros', { out: x, bytes: x.bytes })
  }
