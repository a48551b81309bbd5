import type { Device } from '../../device.js'
import { expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** out[i, j] = x[i, j] · rows[i] · columns[j] · factor, f32, x [m, n]; vectors may be left out; with a factor alone x has any shape. */
export const scale =
  (device: Device) =>
  (x: Tensor, o: { rows?: Tensor; columns?: Tensor; factor?: number }): Tensor => {
    const { rows, columns, factor = 1 } = o
    expectTensor('scale', 'x', x, ['f32'])
    const [m, n] = rows || columns ? expectMatrix('scale', 'x', x) : ([1, x.size] as const)
    if (rows) expectTensor('scale', 'rows', rows, ['f32'], [m])
    if (columns) expectTensor('scale', 'columns', columns, ['f32'], [n])
    const out = device.empty('f32', x.shape)
    device.run('scale', { x, rows, columns, out, m, n, factor })
    return out
  }
