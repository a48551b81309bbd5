/**
 * allocate: a target of bits a weight, met by giving each linear its own K, so that the relative errors of the linears'
 * outputs are least in sum.
 *
 *   error_l(K) = tr((W−Ŵ)H(W−Ŵ)ᵀ)/tr(WHWᵀ) ≈ 2^(−2K) · ‖W‖²/n · tr(D)/tr(WHWᵀ)        proxy error of LDLQ, in H̃'s basis
 *   minimize Σ_l error_l(K_l)  where  Σ_l K_l·m_l·n_l ≤ bits·Σ_l m_l·n_l
 *
 * A code's error falls with K nearly as the rate-distortion bound does, by a constant factor above it, which is common to
 * all linears and has no say here. LDLQ's proxy error is the code's weighted by tr(D) alone (QuIP, arXiv:2307.13304, theorem 1).
 */
import { Type } from '@sinclair/typebox'
import { toArray } from 'rxjs'
import { type Context, defineStage, type NewRow, type Row, spread } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { batchOf } from '../model/batch.js'
import { most, sizesOf, sum } from '../model/sizes.js'
import { allocate } from './greedy.js'
import { sensitivities } from './sensitivity.js'

const params = Type.Object(
  {
    bits: Type.Number({ minimum: 1, maximum: 8, description: 'Bits a weight, on the average of all linears; never more' }),
    K: Type.Array(Type.Integer({ minimum: 1, maximum: 8 }), {
      default: [2, 3, 4],
      minItems: 1,
      description: 'Bits a weight that a linear may get',
    }),
  },
  { additionalProperties: false },
)

type In = Row<typeof linears>

export default defineStage({
  name: 'allocate',
  version: 1,
  about: 'Give each linear its own bits a weight, so that a target is met with the least error.',
  params,
  input: linears,
  output: linears,
  scope: 'stream',
  batch: batchOf,
  check(_rows, { bits, K }, where) {
    const [low, high] = [Math.min(...K), Math.max(...K)]
    if (bits >= low && bits <= high) return []
    const message = `bits: ${bits} bits a weight can't be made of ${K.join(', ')}.`
    return [{ where, message, hint: `A target from ${low} to ${high}, or other "K".` }]
  },
  estimate(rows) {
    const { groups } = sizesOf(rows)
    return {
      operations: sum(groups, ({ m, n }) => n ** 3 / 2 + m * n ** 2),
      memory: most(groups, ({ m, n }) => 16 * n * n + 12 * m * n),
      disk: 0, // rows hold references
    }
  },
  operator:
    ({ bits, K }, context) =>
    source =>
      source.pipe(
        toArray(),
        spread(rows => allocated(rows, bits, K, context)),
      ),
})

async function* allocated(
  rows: readonly In[],
  bits: number,
  choices: readonly number[],
  context: Context,
): AsyncGenerator<NewRow<typeof linears>> {
  const of = rows.filter(row => row.role === 'linear')
  const costs = await sensitivities(of, context)
  const given = allocate(
    of.map((row, i) => ({ weights: row.m * row.n, error: costs[i] ?? 0 })),
    bits,
    choices,
  )
  const chosen = new Map(of.map((row, i) => [row, given[i]]))
  const total = of.reduce((sum, row) => sum + row.m * row.n, 0)
  const average = of.reduce((sum, row) => sum + (chosen.get(row) ?? 0) * row.m * row.n, 0) / total
  const counts = choices.map(K => `${given.filter(one => one === K).length} linears at ${K}`)
  context.note(`allocate: ${counts.join(', ')} bits; ${average.toFixed(3)} bits a weight`)
  for (const row of rows) yield { ...row, K: chosen.get(row) }
}
