import type { Device } from '../../device.js'
import { expectTensor } from '../../expect.js'
import { bytesPerElement, type DType, type Tensor } from '../../tensor.js'

/** The exponent's bits (the upper 32 of f64). */
const exponents: Partial<Record<DType, number>> = { f64: 0x7ff00000, f32: 0x7f800000, f16: 0x7c00, bf16: 0x7f80 }

/** f64 [1]: the number of elements that are NaN or infinite; x of any float type and shape. */
export const countNonFinite =
  (device: Device) =>
  (x: Tensor): Tensor => {
    expectTensor('countNonFinite', 'x', x, ['f64', 'f32', 'f16', 'bf16'])
    const out = device.empty('f64', [1])
    device.run('count_non_finite', { x, out, n: x.size, size: bytesPerElement[x.dtype], exponent: exponents[x.dtype] })
    return out
  }
