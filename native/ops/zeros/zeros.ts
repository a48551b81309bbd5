import type { Device } from '../../device.js'
import type { DType, Tensor } from '../../tensor.js'

/** A tensor of zeros. */
export const zeros =
  (device: Device) =>
  (dtype: DType, shape: readonly number[]): Tensor => {
    const out = device.empty(dtype, shape)
    device.run('zeros', { out, bytes: out.bytes })
    return out
  }
