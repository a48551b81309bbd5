import type { Device } from '../../device.js'
import { elements, type Tensor } from '../../tensor.js'

/** x row-major with another shape of the same size; a new tensor, a copy. */
export const reshape =
  (device: Device) =>
  (x: Tensor, shape: readonly number[]): Tensor => {
    if (elements(shape) !== x.size) throw new RangeError(`reshape: [${x.shape}] has ${x.size} elements, [${shape}] has ${elements(shape)}`)
    const into = device.empty(x.dtype, shape)
    device.run('paste', { x, into, xOffset: 0, xStride: x.bytes, intoOffset: 0, intoStride: x.bytes, rows: 1, rowBytes: x.bytes })
    return into
  }
