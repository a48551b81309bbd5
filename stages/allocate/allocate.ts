/**
 * allocate: a target of bits a weight, met by giving each linear its own K, so that the relative errors of the linears'
 * outputs are least in sum.
 *
 *   error_l(K) = tr((W−Ŵ)H(W−Ŵ)ᵀ)/tr(WHWᵀ) ≈ 2^(−2K) · ‖W‖²/n · tr(D)/tr(WHWᵀ)        proxy error of LDLQ, in H̃'s basis
 *   minimize Σ_l error_l(K_l)  where  Σ_l K_l·m_l·n_l ≤ bits·Σ_l m_l·n_l, K_l given for some
 *
 * A code's error falls with K nearly as the rate-distortion bound does, by a constant factor above it, which is common to
 * all linears and has no say here. LDLQ's proxy error is the code's weighted by tr(D) alone (QuIP, arXiv:2307.13304, theorem 1).
 */
import { type Static, Type } from '@sinclair/typebox'
import { toArray } from 'rxjs'
import { type Context, defineStage, type NewRow, type Row, spread } from '../../pipeline/define.js'
import { linears } from '../../schemas/tables/linears.js'
import { batchOf } from '../model/batch.js'
import { mistakesOfPatterns } from '../model/patterns.js'
import { most, sizesOf, sum } from '../model/sizes.js'
import { budgetOf, mistakesOfBudget, pinnedSchema } from './budget.js'
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
    overrides: pinnedSchema,
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
  check(rows, params, where) {
    const sizes = rows
      .filter(row => row.role === 'linear')
      .map(row => ({ linear: String(row.linear), weights: Number(row.m) * Number(row.n) }))
    const patterns = mistakesOfPatterns(
      params.overrides ?? {},
      sizes.map(({ linear }) => linear),
      `${where}  overrides`,
    )
    return patterns.length > 0 ? patterns : mistakesOfBudget(sizes, params, where)
  },
  estimate(rows) {
    const { groups } = sizesOf(rows)
    return {
      operations: sum(groups, ({ m, n }) => n ** 3 / 2 + m * n ** 2),
      memory: most(groups, ({ m, n }) => 16 * n * n + 12 * m * n),
      disk: 0, // rows hold references
    }
  },
  operator: (params, context) => source =>
    source.pipe(
      toArray(),
      spread(rows => allocated(rows, params, context)),
    ),
})

async function* allocated(rows: readonly In[], o: Static<typeof params>, context: Context): AsyncGenerator<NewRow<typeof linears>> {
  const of = rows.filter(row => row.role === 'linear')
  const budget = budgetOf(
    of.map(row => ({ linear: row.linear, weights: row.m * row.n })),
    o,
  )
  const open = of.filter(row => !budget.pinned.has(row.linear))
  const costs = await sensitivities(open, context)
  const given = allocate(
    open.map((row, i) => ({ weights: row.m * row.n, error: costs[i] ?? 0 })),
    budget.bits,
    o.K,
  )
  const chosen = new Map([...budget.pinned, ...open.map((row, i): [string, number] => [row.linear, given[i] ?? 0])])
  const total = of.reduce((sum, row) => sum + row.m * row.n, 0)
  const average = of.reduce((sum, row) => sum + (chosen.get(row.linear) ?? 0) * row.m * row.n, 0) / total
  const counts = [...new Set([...o.K, ...chosen.values()])].map(
    K => `${[...chosen.values()].filter(one => one === K).length} linears at ${K}`,
  )
  context.note(`allocate: ${counts.join(', ')} bits; ${average.toFixed(3)} bits a weight`)
  for (const row of rows) yield { ...row, K: row.role === 'linear' ? chosen.get(row.linear) : undefined }
}
