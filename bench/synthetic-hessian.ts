/**
 * A stage for benchmarks: H of each input from a synthetic spectrum, made on the device, in place of a calibration.
 *
 *   H = Q·diag(λ)·Qᵀ + diag(o)        λ_i = 1/(1 + i/8) + 1e-3,  i = 0 … n−1;  o: 8 outlier channels of 10
 *
 * Q is a product of two randomized Hadamard transforms, so that H is dense, as measured ones are before `rht`.
 */
import { concatMap, pipe, toArray } from 'rxjs'
import type { Ops } from '../native/ops.js'
import { hadamardBlock } from '../native/ops/hadamard/hadamard.js'
import type { Tensor } from '../native/tensor.js'
import { defineStage, type NewRow, type Row, Type } from '../pipeline/define.js'
import type { Random } from '../pipeline/random.js'
import { linears } from '../schemas/tables/linears.js'

const params = Type.Object({}, { additionalProperties: false })
const input = linears.without('hessian')

/** Channels that stick out, and by how much. */
const outliers = { count: 8, size: 10 } as const

export default defineStage({
  name: 'synthetic-hessian',
  version: 1,
  about: 'H of a synthetic spectrum, for benchmarks.',
  params,
  input,
  output: linears,
  cache: false,
  operator: (_, { ops, rng }) =>
    pipe(
      toArray<Row<typeof input>>(),
      concatMap((rows): NewRow<typeof linears>[] => {
        const first = rows.find(row => row.role === 'linear')
        if (first === undefined) return rows.map(row => ({ ...row, hessian: undefined }))
        const hessian = spectral(ops, first.n, rng('hessian', first.layer, first.shares))
        return rows.map(row => ({ ...row, hessian: row.role === 'linear' ? hessian : undefined }))
      }),
    ),
})

export function spectral(ops: Ops, n: number, random: Random): Tensor {
  const block = hadamardBlock(n, 65536)
  let h = diagonal(
    ops,
    Float32Array.from({ length: n }, (_, i) => 1 / (1 + i / 8) + 1e-3),
  )
  for (let turn = 0; turn < 2; turn++) {
    using before = h
    using signs = ops.tensor(random.signs(n), [n])
    using right = ops.hadamard(before, { side: 'right', signs, block })
    h = ops.hadamard(right, { side: 'left', signs, block })
  }
  using body = h
  const channels = new Float32Array(n)
  for (let i = 0; i < outliers.count; i++) channels[Math.floor((i * n) / outliers.count)] = outliers.size
  using more = diagonal(ops, channels)
  return ops.add(body, more)
}

/** f32 [n, n]. The diagonal of a matrix is a column of the same numbers laid out n + 1 a row. */
function diagonal(ops: Ops, values: Float32Array): Tensor {
  const n = values.length
  using column = ops.tensor(values, [n, 1])
  using wide = ops.zeros('f32', [n, n + 1])
  ops.paste(wide, column, {})
  using flat = ops.reshape(wide, [1, n * (n + 1)])
  using square = ops.copy(flat, { columns: [0, n * n] })
  return ops.reshape(square, [n, n])
}
