/**
 * hessian: the second moment of what each linear reads, summed over the calibration tokens.
 *
 *   H = Σ x xᵀ / T        x in R^n: the input of the linear for one token, T tokens
 *
 * Linears that read the same input (q, k and v; up and gate) share one H. For x in f32 products are in f32 over a few
 * hundred tokens, sums in f64; for x in bf16, whose own rounding is far larger, all sums are in f32. A token with a NaN or
 * an infinite entry is left out, counted and reported.
 *
 * With weight "gradient" tokens count as the end loss depends on what the linear gives for them, its outputs in g groups:
 *
 *   H_k = Σ (floor + (1 − floor)·s_tk) x xᵀ / T   s_tk: mean of (∂ℓ/∂z_tj)² over outputs j of group k = 1 … g, of mean 1
 *
 * With floor 0, Σ_k tr(ΔW_k H_k ΔW_kᵀ) is what rounding adds to the loss, to second order, by the diagonal of its Fisher
 * information and its average over a group (GuidedQuant, arXiv:2505.07004, section 3). No two linears share such an H.
 * Differs from the published method by the floor: where the model is sure of the next token the gradient is next to nothing,
 * but rounding errors of a few bits are not small, and what they break there the second order does not see.
 *
 * QTIP (arXiv:2406.11235) section 2.1; QuIP (arXiv:2307.13304) section 3.1.
 * Differs from the published code: not damped here, since damping belongs to the factorisation (stage round).
 */
import { type Static, Type } from '@sinclair/typebox'
import { concatMap, defer } from 'rxjs'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import {
  type Context,
  defineStage,
  type KnownRow,
  type Mistake,
  type NewRow,
  PipeError,
  type Row,
  type StageAbove,
} from '../../pipeline/define.js'
import { activations } from '../../schemas/tables/activations.js'
import { linears } from '../../schemas/tables/linears.js'
import { finestGroups } from '../model/groups.js'
import { type Group, most, mostOfLayer, sizesOf, sum } from '../model/sizes.js'

const params = Type.Object(
  {
    weight: Type.Union([Type.Literal('none'), Type.Literal('gradient')], {
      default: 'none',
      description:
        'What a token counts: all the same, or by the squared gradient of the loss by what the linear gives (calibrate "gradients": true)',
    }),
    groups: Type.Integer({ default: 1, minimum: 1, description: 'With gradients: groups of outputs that have an H each: 1, 2, 4 or 8' }),
    floor: Type.Number({
      default: 0.5,
      minimum: 0,
      maximum: 1,
      description: 'With gradients: share of what tokens count that is the same for all of them; 0 as published',
    }),
  },
  { additionalProperties: false },
)
type Params = Static<typeof params>

/** Sums of one (layer, shares), or of one linear, while activations come in: one, or one a group of outputs. */
interface Sums {
  readonly of: readonly { readonly h: Tensor; readonly skipped: Tensor }[]
  /** The linear whose rows are taken. */
  readonly linear: string
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
  check: (rows, params, where, above) => [...mistakesOf(rows, params, where), ...ungiven(params, where, above)],
  estimate(rows, { weight, groups: g }) {
    const { groups } = sizesOf(rows)
    const tokens = Number(rows[0]?.tokens ?? 0) // known from calibrate
    const guided = weight === 'gradient'
    const squares = (of: Group): number => (guided ? g * of.linears : 1) * of.n ** 2
    // H is symmetric: half of it is multiplied. Sums of a block in f64, and the one that is finished in f32.
    const memory = mostOfLayer(groups, of => 8 * squares(of)) + 8 * most(groups, squares)
    return {
      operations: (tokens * sum(groups, squares)) / 2,
      memory,
      disk: 4 * sum(groups, squares),
      rows: guided ? rows.map(row => ({ ...row, hessians: g })) : rows,
    }
  },
  operator: (params, context) => source =>
    defer(() => {
      const { ops } = context
      const sums = new OpenSums(params, context)
      const finished = new Map<string, Tensor>()
      return source.pipe(
        concatMap(async (row): Promise<NewRow<typeof linears>[]> => {
          if (row.role === 'kept') return [{ ...row, role: 'kept', weight: required(row), hessian: undefined }]
          const key = params.weight === 'gradient' ? `${row.layer}/${row.linear}` : `${row.layer}/${row.shares}`
          if (row.role === 'activation') {
            if (!row.x)
              throw new PipeError('failed', {
                where: `hessian  ${key}`,
                message: 'A row of activations has no x.',
                hint: 'The stage before "hessian" must give "x" with every row of role "activation".',
              })
            using x = await row.x.open(ops, sums.dtype(key) ?? (row.x.dtype === 'bf16' ? 'bf16' : 'f32'))
            await sums.add(key, row, x)
            return []
          }
          let hessian = finished.get(key)
          if (!hessian) {
            hessian = await sums.finish(key)
            finished.clear() // the linears of one input come one after the other
            finished.set(key, hessian)
          }
          return [{ ...row, role: 'linear', weight: required(row), hessian }]
        }),
        concatMap(rows => rows),
      )
    }),
})

/** The H that are being summed. */
class OpenSums {
  readonly #open = new Map<string, Sums>()

  constructor(
    private readonly params: Params,
    private readonly context: Context,
  ) {}

  /** What the x of these sums are taken in; undefined: whatever comes first. */
  dtype(key: string): 'bf16' | 'f32' | undefined {
    const summed = this.#open.get(key)?.of[0]?.h.dtype
    return summed === undefined ? undefined : summed === 'f32' ? 'bf16' : 'f32'
  }

  async add(key: string, row: Row<typeof activations>, x: Tensor): Promise<void> {
    const { ops } = this.context
    const roots = this.params.weight === 'gradient' ? await rootsOf(row, this.params) : undefined
    let sums = this.#open.get(key)
    if (!sums) {
      const zeros = (): Tensor => ops.zeros(x.dtype === 'bf16' ? 'f32' : 'f64', [row.n, row.n])
      const of = Array.from({ length: roots?.length ?? 1 }, () => ({ h: zeros(), skipped: ops.zeros('f64', [1]) }))
      sums = { of, linear: row.linear, tokens: 0 }
      this.#open.set(key, sums)
    }
    if (row.linear !== sums.linear) return // x once more, for another linear that reads it
    sums.tokens += row.tokens
    for (const [k, { h, skipped }] of sums.of.entries()) {
      if (roots === undefined) ops.gram(h, x, skipped)
      else {
        using weighted = scaled(ops, x, roots[k] as Float32Array)
        ops.gram(h, weighted, skipped)
      }
    }
  }

  /** H f32 [n, n], or [g·n, n]. */
  async finish(key: string): Promise<Tensor> {
    const { ops, note } = this.context
    const sums = this.#open.get(key)
    if (!sums)
      throw new PipeError('failed', {
        where: `hessian  ${key}`,
        message: 'No activations came before the linears that read them.',
        hint: 'Put "calibrate" right before "hessian".',
      })
    this.#open.delete(key)
    const means: Tensor[] = []
    for (const [k, { h, skipped: count }] of sums.of.entries()) {
      const skipped = new Float64Array((await count.read()).buffer)[0] ?? 0
      const tokens = sums.tokens - skipped
      if (tokens <= 0)
        throw new PipeError('input', {
          where: `hessian  ${key}`,
          message: `All ${sums.tokens} calibration tokens have NaN or infinite activations here.`,
          hint: 'The weights of this layer or of one before it are broken, or overflow: check the checkpoint.',
        })
      if (skipped > 0 && k === 0)
        note(`hessian ${key}: ${skipped} of ${sums.tokens} tokens have NaN or infinite activations and were left out`)
      count[Symbol.dispose]()
      means.push(meanOf(ops, h, tokens))
    }
    const [first] = means
    if (means.length === 1 && first !== undefined) return first
    const stacked = ops.concat(means)
    for (const mean of means) mean[Symbol.dispose]()
    return stacked
  }
}

/** Takes over the sum. */
function meanOf(ops: Ops, h: Tensor, tokens: number): Tensor {
  if (h.dtype === 'f32') {
    ops.mirror(h, { factor: 1 / tokens })
    return h
  }
  using sum = h
  using mean = ops.cast(sum, 'f32')
  return ops.scale(mean, { factor: 1 / tokens })
}

/** √(floor + (1 − floor)·s) of the tokens of a chunk for each of g groups of outputs, made of the finest. */
async function rootsOf({ rowWeights, linear, m }: Row<typeof activations>, { groups: g, floor }: Params): Promise<Float32Array[]> {
  if (rowWeights === undefined)
    throw new PipeError('input', {
      where: `hessian  ${linear}`,
      message: '"weight" is "gradient", and the activations come without gradients.',
      hint: 'Give "calibrate" the parameter "gradients": true (--set calibrate.gradients=true).',
    })
  const [t = 0, finest = 1] = rowWeights.shape
  if (finest % g !== 0) throw new Error(`${linear}: ${finest} groups of outputs of ${m} can't be made ${g}`)
  const s = new Float32Array((await rowWeights.read()).slice().buffer)
  const each = finest / g
  return Array.from({ length: g }, (_, k) =>
    Float32Array.from({ length: t }, (_, token) => {
      const from = token * finest + k * each
      const mean = s.subarray(from, from + each).reduce((sum, x) => sum + x, 0) / each
      return Math.sqrt(floor + (1 - floor) * mean)
    }),
  )
}

/** diag(rows)·x, as x: f32 or bf16. */
function scaled(ops: Ops, x: Tensor, rows: Float32Array): Tensor {
  using factors = ops.tensor(rows, [rows.length])
  if (x.dtype === 'f32') return ops.scale(x, { rows: factors })
  using wide = ops.cast(x, 'f32')
  using product = ops.scale(wide, { rows: factors })
  return ops.cast(product, 'bf16')
}

/** Gradients that "calibrate" was not asked for. */
function ungiven({ weight }: Params, where: string, above: readonly StageAbove[]): Mistake[] {
  const without = above.find(({ name, params }) => name === 'calibrate' && params.gradients !== true)
  if (weight === 'none' || without === undefined) return []
  return [
    {
      where: `${where}  weight`,
      message: '"gradient", and "calibrate" above does not run the model backward.',
      hint: 'Give "calibrate" the parameter "gradients": true (--set calibrate.gradients=true).',
    },
  ]
}

/** Groups without gradients, or such as the outputs of a linear can't be cut into. */
function mistakesOf(rows: readonly KnownRow[], { weight, groups }: Params, where: string): Mistake[] {
  if (groups === 1) return []
  const at = `${where}  groups`
  if (weight === 'none')
    return [
      {
        where: at,
        message: `${groups} groups of outputs, and "weight" is "none": all would have the same H.`,
        hint: 'Give "weight": "gradient".',
      },
    ]
  const linears = rows.filter(({ role }) => role === 'linear')
  const large = linears.find(({ n }) => 4 * groups * Number(n) ** 2 > 2 ** 32)
  if (large !== undefined)
    return [
      {
        where: at,
        message: `${groups} H of ${large.linear} [${large.n}, ${large.n}] take more than the 4 GiB that a tensor may have in the cache.`,
        hint: 'Give fewer.',
      },
    ]
  const linear = linears.find(({ m }) => finestGroups(Number(m)) % groups !== 0)
  if (linear === undefined) return []
  const most = finestGroups(Number(linear.m))
  const may = [1, 2, 4, 8].filter(g => g <= most).join(', ')
  return [
    {
      where: at,
      message: `The ${linear.m} outputs of ${linear.linear} can't be cut into ${groups} groups of equal size.`,
      hint: most === 1 ? 'Give 1.' : `Give one of ${may}.`,
    },
  ]
}

function required(row: Row<typeof activations>) {
  if (row.weight) return row.weight
  throw new PipeError('failed', {
    where: `hessian  ${row.linear}`,
    message: 'The row has no weight.',
    hint: 'Every row but those of role "activation" must carry "weight".',
  })
}
