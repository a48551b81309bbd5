/**
 * rht: make W and H incoherent with a randomized Hadamard transform.
 *
 *   W̃ = Hₘᵀ·diag(sv) · W · diag(su)·Hₙ        m = outputs (rows of W)
 *   H̃ = Hₙᵀ·diag(su) · H · diag(su)·Hₙ        n = inputs (columns of W)
 *
 * Where the outputs are in g groups that have an H each, Hₘ mixes within a group alone (order m/g at most), and the outputs
 * of a group stay those of its H.
 *
 * with su, sv random signs and Hₙ an orthonormal Hadamard matrix K·2ᵖ. Large entries spread over all
 * coordinates, so that the entries look Gaussian to the codebook. A size without such a matrix gets a block
 * diagonal of Hadamard matrices of a power of two: still orthogonal, only less mixed.
 *
 * QuIP# (arXiv:2402.04396) section 3; QTIP (arXiv:2406.11235) section 2.2.
 * Differs from the published code: su belongs to the input, so linears that share an input share H̃ (and its
 * factorisation, and later the transform of x); the published code draws su for each linear.
 */
import { Type } from '@sinclair/typebox'
import { concatMap, pipe } from 'rxjs'
import { hadamardBlock } from '../../native/ops/hadamard/hadamard.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { defineStage, type NewRow, runs } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { incoherent } from '../../schemas/tables/rounded.js'
import { hessianGroups } from '../model/groups.js'
import { most, sizesOf, sum } from '../model/sizes.js'

const params = Type.Object(
  {
    block: Type.Integer({
      default: 65536,
      minimum: 1,
      description:
        'Largest order of the Hadamard blocks of sizes that have no exact transform; the largest power of two up to it that divides the size is used',
    }),
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'rht',
  version: 1,
  about: 'Make W and H incoherent with a randomized Hadamard transform.',
  params,
  input: linears.with('weight', 'hessian', 'K'),
  output: incoherent,
  cache: false,
  estimate(rows) {
    const { groups } = sizesOf(rows)
    // log2 additions an entry, bound by memory: an addition takes as long as eight of a large product. H and W twice in f32.
    const operations = sum(groups, ({ m, n, hessians }) => 8 * (2 * hessians * n * n * Math.log2(n) + m * n * Math.log2(m * n)))
    return { operations, memory: most(groups, ({ m, n, hessians }) => 8 * (m * n + hessians * n * n)), disk: 0 }
  },
  operator: ({ block }, { ops, rng, note }) =>
    pipe(
      runs(row => `${row.role}/${row.layer}/${row.shares}`),
      concatMap(async (rows): Promise<NewRow<typeof incoherent>[]> => {
        const first = rows[0]
        if (!first || first.role === 'kept')
          return rows.map(row => ({ ...row, dense: undefined, hessian: undefined, su: undefined, sv: undefined, transform: '' }))

        const columns = hadamardBlock(first.n, block)
        const su = ops.tensor(rng('su', first.layer, first.shares).signs(first.n), [first.n])
        const hessians = new Map<TensorRef, Tensor>()
        for (const { hessian } of rows) {
          if (hessian === undefined || hessians.has(hessian)) continue
          using h = await hessian.open(ops, 'f32')
          hessians.set(hessian, incoherentHessians(ops, h, su, columns))
        }
        const out: NewRow<typeof incoherent>[] = []
        for (const row of rows) {
          const mixed = row.m / hessianGroups(row) // outputs that may be mixed with each other
          const outputs = hadamardBlock(mixed, block)
          const sv = ops.tensor(rng('sv', row.layer, row.linear).signs(row.m), [row.m])
          using w = await row.weight.open(ops, 'f32')
          using right = ops.hadamard(w, { side: 'right', signs: su, block: columns })
          const weight = ops.hadamard(right, { side: 'left', signs: sv, block: outputs })
          out.push({
            ...row,
            dense: row.weight,
            weight,
            hessian: row.hessian && hessians.get(row.hessian),
            su,
            sv,
            transform: JSON.stringify({ m: outputs, n: columns }),
          })
          for (const [size, order] of [
            [mixed, outputs],
            [row.n, columns],
          ] as const) {
            if (order < size) note(`rht ${row.linear}: no Hadamard matrix of order ${size} is known here; used blocks of ${order}`)
          }
        }
        return out
      }),
      concatMap(rows => rows),
    ),
})

/** Hₙᵀ·diag(su)·H·diag(su)·Hₙ of each H [n, n] in h [g·n, n]. */
function incoherentHessians(ops: Ops, h: Tensor, su: Tensor, block: number): Tensor {
  const [rows = 0, n = 0] = h.shape
  using right = ops.hadamard(h, { side: 'right', signs: su, block })
  if (rows === n) return ops.hadamard(right, { side: 'left', signs: su, block })
  const out = ops.zeros('f32', h.shape)
  for (let row = 0; row < rows; row += n) {
    using one = ops.copy(right, { rows: [row, row + n] })
    using both = ops.hadamard(one, { side: 'left', signs: su, block })
    ops.paste(out, both, { row })
  }
  return out
}
