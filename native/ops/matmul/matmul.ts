import type { Device } from '../../device.js'
import { expectMatrix } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import { gemm } from '../gemm/gemm.js'

/** alpha · op(a) · op(b), f32; op is the transpose where asked for. */
export const matmul = (device: Device) => {
  const product = gemm(device)
  return (a: Tensor, b: Tensor, o: { transposeA?: boolean; transposeB?: boolean; alpha?: number } = {}): Tensor => {
    const [rows, columns] = [expectMatrix('matmul', 'a', a, ['f32']), expectMatrix('matmul', 'b', b, ['f32'])]
    const c = device.empty('f32', [rows[o.transposeA ? 1 : 0], columns[o.transposeB ? 0 : 1]])
    product(c, a, b, o)
    return c
  }
}
