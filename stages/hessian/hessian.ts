/**
 * hessian: the second moment of what each linear reads, summed over the calibration tokens.
 *
 *   H = Σ x xᵀ / T        x in R^n: the input of the linear for one token, T tokens
 *
 * Linears that read the same input (q, k and v; up and gate) share one H. For x in f32 products are in f32 over a few
 * hundred tokens, sums in f64; for x in bf16, whose own rounding is far larger, all sums are in f32. A token with a NaN or
 * an infinite entry is left out, counted and reported.
 *
 * QTIP (arXiv:2406.11235) section 2.1; QuIP (arXiv:2307.13304) section 3.1.
 * Differs from the published code: not damped here, since damping belongs to the factorisation (stage round).
 */
import { Type } from '@sinclair/typebox'
import { concatMap, defer } from 'rxjs'
import type { Tensor } from '../../native/tensor.js'
import { defineStage, type NewRow, PipeError, type Row } from '../../pipeline/define.js'
import { activations } from '../../schemas/tables/activations.js'
import { linears } from '../../schemas/tables/linears.js'
import { type Group, most, mostOfLayer, sizesOf, sum } from '../model/sizes.js'

const params = Type.Object({}, { additionalProperties: false })

/** Sums of one (layer, shares) while its activations come in. */
interface Sums {
  h: Tensor
  skipped: Tensor
  tokens: number
}

export default defineStage({
  name: 'hessian',
  version: 1,
  about: 'Sum E[x xᵀ] of what each linear reads; linears that read the same input share one.',
  params,
  input: activations,
  output: linears,
  scope: 'stream',
  estimate(rows) {
    const { groups } = sizesOf(rows)
    const tokens = Number(rows[0]?.tokens ?? 0) // known from calibrate
    const squares = (of: Group): number => of.n ** 2
    // H is symmetric: half of it is multiplied. Sums of a block in f64, and the one that is finished in f32.
    const memory = mostOfLayer(groups, of => 8 * squares(of)) + 8 * most(groups, squares)
    return { operations: (tokens * sum(groups, squares)) / 2, memory, disk: 4 * sum(groups, squares) }
  },
  operator:
    (_, { ops, note }) =>
    source =>
      defer(() => {
        const open = new Map<string, Sums>()
        const finished = new Map<string, Tensor>()

        const add = (key: string, row: Row<typeof activations>, x: Tensor) => {
          let sums = open.get(key)
          if (!sums) {
            sums = { h: ops.zeros(x.dtype === 'bf16' ? 'f32' : 'f64', [row.n, row.n]), skipped: ops.zeros('f64', [1]), tokens: 0 }
            open.set(key, sums)
          }
          ops.gram(sums.h, x, sums.skipped)
          sums.tokens += row.tokens
        }

        const finish = async (key: string): Promise<Tensor> => {
          const sums = open.get(key)
          if (!sums)
            throw new PipeError('failed', {
              where: `hessian  ${key}`,
              message: 'No activations came before the linears that read them.',
              hint: 'Put "calibrate" right before "hessian".',
            })
          open.delete(key)
          const skipped = new Float64Array((await sums.skipped.read()).buffer)[0] ?? 0
          const tokens = sums.tokens - skipped
          if (tokens <= 0)
            throw new PipeError('input', {
              where: `hessian  ${key}`,
              message: `All ${sums.tokens} calibration tokens have NaN or infinite activations here.`,
              hint: 'The weights of this layer or of one before it are broken, or overflow: check the checkpoint.',
            })
          if (skipped > 0) note(`hessian ${key}: ${skipped} of ${sums.tokens} tokens have NaN or infinite activations and were left out`)
          sums.skipped[Symbol.dispose]()
          if (sums.h.dtype === 'f32') {
            ops.mirror(sums.h, { factor: 1 / tokens })
            return sums.h
          }
          using sum = sums.h
          using mean = ops.cast(sum, 'f32')
          return ops.scale(mean, { factor: 1 / tokens })
        }

        return source.pipe(
          concatMap(async (row): Promise<NewRow<typeof linears>[]> => {
            if (row.role === 'kept') return [{ ...row, role: 'kept', weight: required(row), hessian: undefined }]
            const key = `${row.layer}/${row.shares}`
            if (row.role === 'activation') {
              if (!row.x)
                throw new PipeError('failed', {
                  where: `hessian  ${key}`,
                  message: 'A row of activations has no x.',
                  hint: 'The stage before "hessian" must give "x" with every row of role "activation".',
                })
              const summed = open.get(key)?.h.dtype
              const bf16 = summed === undefined ? row.x.dtype === 'bf16' : summed === 'f32'
              using x = await row.x.open(ops, bf16 ? 'bf16' : 'f32')
              add(key, row, x)
              return []
            }
            let hessian = finished.get(key)
            if (!hessian) {
              hessian = await finish(key)
              finished.clear() // the linears of one input come one after the other
              finished.set(key, hessian)
            }
            return [{ ...row, role: 'linear', weight: required(row), hessian }]
          }),
          concatMap(rows => rows),
        )
      }),
})

function required(row: Row<typeof activations>) {
  if (row.weight) return row.weight
  throw new PipeError('failed', {
    where: `hessian  ${row.linear}`,
    message: 'The row has no weight.',
    hint: 'Every row but those of role "activation" must carry "weight".',
  })
}
