import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import { gemm, isMixed } from '../gemm/gemm.js'

/** alpha · op(a) · op(b); op is the transpose where asked for. a and b f32, or both bf16, or b alone as `gemm` has it; the result is of their type unless `dtype` says f32. */
export const matmul = (device: Device) => {
  const product = gemm(device)
  return (a: Tensor, b: Tensor, o: { transposeA?: boolean; transposeB?: boolean; alpha?: number; dtype?: 'f32' } = {}): Tensor => {
    const [rows, columns] = [
      expectMatrix('matmul', 'a', a, ['f32', 'bf16']),
      expectMatrix('matmul', 'b', b, isMixed(device, a, b, o) ? ['bf16'] : [a.dtype]),
    ]
    const c = device.empty(o.dtype ?? a.dtype, [rows[o.transposeA ? 1 : 0], columns[o.transposeB ? 0 : 1]])
    product(c, a, b, o)
    return c
  }
}
