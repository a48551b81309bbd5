import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/**
 * out[i, j] = x[i, j] · rows[i] · columns[j] · factor · by, f32, x [m, n], by f64 [1]; what is left out is 1; with factors alone x
 * has any shape.
 */
export const scale =
  (device: Device) =>
  (x: Tensor, o: { rows?: Tensor; columns?: Tensor; factor?: number; by?: Tensor }): Tensor => {
    const { rows, columns, factor = 1, by } = o
    expectTensor('scale', 'x', x, ['f32'])
    const [m, n] = rows || columns ? expectMatrix('scale', 'x', x) : ([1, x.size] as const)
    if (rows) expectTensor('scale', 'rows', rows, ['f32'], [m])
    if (columns) expectTensor('scale', 'columns', columns, ['f32'], [n])
    if (by) expectTensor('scale', 'by', by, ['f64'], [1])
    const out = device.empty('f32', x.shape)
    device.run('scale', { x, rows, columns, by, out, m, n, factor })
    return out
  }
