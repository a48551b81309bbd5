/**
 * round: W̃ to codes, with LDLQ feedback through H̃.
 *
 * Linears of one input are stacked and rounded as one matrix: those that share H̃ share its factorisation, and more tiles a
 * step keep the search busy. Each has its own scale σ; the source scale s is searched once for the stack. Where H̃ are more
 * (a linear's own, or one for each group of its outputs), rows are fed back through theirs; a tile across the border of
 * two groups through that of its first row.
 *
 *   proxyError = tr((W̃−σŴ) H̃ (W̃−σŴ)ᵀ) / tr(W̃ H̃ W̃ᵀ)        H̃ damped: H̃ + damp·mean(diag H̃)·I
 *
 * QTIP (arXiv:2406.11235) sections 3 and 4; scale and damping as in spec of its code, with these differences:
 * Differs from the published code: s is searched (theirs is given, 0.9); a matrix that is not positive definite
 * is damped more, step by step, and said so; sizes that tiles do not divide are padded with zero weights.
 */
import { Type } from '@sinclair/typebox'
import { concatMap, pipe } from 'rxjs'
import type { Codec } from '../../native/codebook.js'
import { codebookOf, codebookSchema, type Settings as CodeSettings } from '../../native/codebooks/settings.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { type Context, defineStage, type NewRow, PipeError, type Row, runs } from '../../pipeline/define.js'
import { incoherent, rounded } from '../../schemas/tables/rounded.js'
import { type Group, most, sizesOf, sum } from '../model/sizes.js'
import { type Factored, Factors } from './factor.js'
import { ldlq } from './ldlq.js'
import { type Choice, codeFor, mistakesOf, mistakesOfGiven, overridesSchema } from './overrides.js'
import { rowScaled } from './row-scale.js'
import { number, points, sampleOf, sampleTiles, searchScale } from './scale.js'
import { partsOf, traces } from './output-groups.js'

const params = Type.Object(
  {
    codebook: codebookSchema,
    overrides: overridesSchema,
    damp: Type.Number({
      default: 0.01,
      minimum: 0,
      maximum: 1,
      description: 'Added to the diagonal of H, as a share of its mean; raised by tens if H is not positive definite even so',
    }),
    scale: Type.Union([Type.Literal('search'), Type.Number({ exclusiveMinimum: 0 })], {
      default: 'search',
      description: 'Source scale s: rms of W in units of the code before rounding; "search" finds it on sample tiles',
    }),
    rowScale: Type.Boolean({
      default: false,
      description: 'A scale for each output, so that what is rounded gives it back in full, folded into SV',
    }),
    feedback: Type.Boolean({ default: true, description: 'LDLQ; false rounds every tile by itself, for comparison' }),
  },
  { additionalProperties: false },
)

/**
 * Buffers of columns in the queue behind the one that runs. The event loop uploads and hashes for other batches meanwhile,
 * up to a tenth of a second at a time; the device must not run dry. Tensors take memory only when their op runs.
 */
const ahead = 8

/** A promise that is awaited later; if that is never, as another failed first, its failure is nobody's. */
const settledLater = <T>(promise: Promise<T>): Promise<T> => {
  promise.catch(() => {})
  return promise
}

/**
 * Bytes of tensors that linears [m, n] of one input take at a time, in f32: W̃ and H̃ as they came, with a copy of both, H̃ damped
 * and factored; or with W̃ scaled, the targets, the errors, the values, the codes, H̃ damped and its factor. Llama-2-7B's down: 2.4 GB.
 * The search's scratch memory comes on top: on CUDA up to 1.1 GB.
 */
const memoryOf = ({ m, n, hessians: h }: Group): number => Math.max(8 * m * n + (12 * h + 4) * n * n, 22 * m * n + 12 * h * n * n)

type In = Row<typeof incoherent>
type Out = NewRow<typeof rounded>

export default defineStage({
  name: 'round',
  version: 2,
  about: 'Round W to codes, column block by column block, with LDLQ feedback through H.',
  params,
  input: incoherent,
  output: rounded,
  check(rows, params, where, above) {
    const linears = rows.filter(row => row.role === 'linear').map(row => String(row.linear))
    const mistakes = mistakesOf(params, linears, where)
    return mistakes.length > 0 ? mistakes : mistakesOfGiven(params, linears, above, where)
  },
  memory: (_bytes, { rowScale }, rows) => most(sizesOf(rows).groups, group => memoryOf(group) + (rowScale ? 24 * group.m * group.n : 0)),
  estimate(rows, params) {
    const { scale, feedback } = params
    const { groups } = sizesOf(rows)
    const algebra = feedback ? sum(groups, ({ m, n, hessians }) => (hessians * n ** 3 + m * n ** 2) / 2) : 0 // the factor, and errors times it
    let [operations, disk] = [algebra, 0]
    const told = rows.map(row => {
      const settings = row.role === 'linear' ? codeFor(String(row.linear), row.K as number | undefined, params) : 'leave'
      if (settings === 'leave') return { ...row, role: 'kept' }
      const { codebook, params: of } = codebookOf(settings)
      const { Tx = 16, Ty = 16, V = 1 } = of as { Tx?: number; Ty?: number; V?: number }
      const weights = Number(row.m) * Number(row.n)
      // Sample tiles of the linears of an input that the scale is tried on; then each weight once.
      const sample = (sampleTiles * Tx * Ty * groups.length) / rows.filter(({ role }) => role === 'linear').length
      operations += (weights + (scale === 'search' ? points * Math.min(sample, weights) : 0)) * codebook.operations(of)
      disk += (2 * weights) / V // a state of 16 bits a step
      return { ...row, bits: codebook.bits(of) }
    })
    return { operations, memory: most(groups, memoryOf), disk, rows: told }
  },
  operator: (params, context) =>
    pipe(
      runs((row: In) => `${row.role}/${row.layer}/${row.shares}`),
      concatMap(async (rows): Promise<Out[]> => {
        if (rows[0]?.role === 'kept') return rows.map(kept)
        using factors = new Factors(params, context)
        const out = new Map<In, Out>()
        for (const [json, alike] of grouped(rows, params)) {
          if (json === 'leave') {
            for (const row of alike) out.set(row, leftAlone(row))
            continue
          }
          const { codebook, params: code } = codebookOf(json)
          using codec = codebook.open(context.ops, code)
          const factored = settledLater(factors.all(alike, codec.tile[1]))
          const done = await roundTogether(alike, codec, { ...params, json }, factored, context)
          for (const [i, row] of alike.entries()) out.set(row, done[i] as Out)
        }
        return rows.map(row => out.get(row) as Out)
      }),
      concatMap(rows => rows),
    ),
})

const kept = ({ hessian: _, K: __, dense: ___, ...row }: In): Out => ({ ...row, codebook: '', scale: 0, proxyError: 0 })

/** A linear that is not rounded is one of the tensors that are carried along, of its block. */
function leftAlone(row: In): Out {
  const weight = required(row.dense, row, 'dense')
  return kept({
    ...row,
    role: 'kept',
    linear: `${row.linear}.weight`,
    shares: 'block',
    weight,
    su: undefined,
    sv: undefined,
    transform: '',
  })
}

/** Rows that are rounded with the same code, by its JSON with all parameters; or 'leave'. */
function grouped(rows: readonly In[], choice: Choice): Map<string, In[]> {
  const groups = new Map<string, In[]>()
  for (const row of rows) {
    const settings = codeFor(row.linear, row.K, choice)
    const json = settings === 'leave' ? settings : fullSettings(settings)
    groups.set(json, [...(groups.get(json) ?? []), row])
  }
  return groups
}

function fullSettings(settings: CodeSettings): string {
  const { codebook, params } = codebookOf(settings)
  return JSON.stringify({ use: codebook.name, ...params })
}

interface Settings {
  json: string
  scale: 'search' | number
  feedback: boolean
  rowScale: boolean
}

/** Rounds linears of one input and code as one matrix [Σ m, n], padded to whole tiles. */
async function roundTogether(
  rows: readonly In[],
  codec: Codec,
  settings: Settings,
  factored: Promise<readonly (readonly Factored[])[]>,
  context: Context,
): Promise<Out[]> {
  const { ops } = context
  const [Tx, Ty] = codec.tile
  const first = rows[0]
  if (!first) return []
  const n = Math.ceil(first.n / Ty) * Ty
  const offsets: number[] = []
  let m = 0
  for (const row of rows) {
    offsets.push(m)
    m += Math.ceil(row.m / Tx) * Tx
  }

  using raw = ops.zeros('f32', [m, n])
  const squares: Promise<Uint8Array>[] = []
  for (const [i, row] of rows.entries()) {
    using w = await required(row.weight, row, 'weight').open(ops, 'f32')
    using sum = ops.sumSquares(w)
    squares.push(settledLater(sum.read()))
    ops.paste(raw, w, { row: offsets[i] ?? 0 })
  }
  // The one wait, behind the other batch's columns in the queue: from here on all is enqueued to the last column.
  const hs = await factored
  const rms = (await Promise.all(squares)).map((bytes, i) => rootMeanSquare(number(bytes), rows[i] as In))
  const sigma = rms.map(x => (Math.fround(1 / x) < Number.POSITIVE_INFINITY ? x : 0))
  for (const [i, { linear }] of rows.entries())
    if (sigma[i] !== rms[i]) context.note(`round  ${linear}: weights of ${rms[i]?.toExponential(1)} are too small for f32; rounded as zeros`)
  const units = new Float32Array(m)
  for (const [i, one] of sigma.entries()) units.fill(one > 0 ? 1 / one : 0, offsets[i], offsets[i + 1])
  using factors = ops.tensor(units, [m])
  using stack = ops.scale(raw, { rows: factors }) // every linear at unit rms
  raw[Symbol.dispose]()
  using source = scaleOf(ops, codec, settings.scale, feedbackOf(rows, hs), () => {
    const linears = rows.map(({ m, n }, i) => ({ m, n, offset: offsets[i] ?? 0, rms: sigma[i] ?? 0 }))
    return sampleOf(ops, stack, [Tx, Ty], linears)
  })
  using scaled = ops.scale(stack, { factor: codec.rms, by: source })
  stack[Symbol.dispose]()
  const weights = rows.reduce((sum, row) => sum + row.m * row.n, 0)
  const enqueued: Promise<void>[] = []
  const result = await ldlq(ops, codec, scaled, partsOf(rows, offsets, hs, Tx), async columns => {
    enqueued.push(settledLater(ops.finish()))
    if (enqueued.length > ahead) await enqueued.shift()
    context.signal.throwIfAborted()
    context.progress(Math.round((weights * columns) / n), weights, 'weights')
  })
  using codes = result.codes
  using values = result.values
  const found = settledLater(source.read())

  const tileRow = n / Ty
  const finish = async (row: In, i: number): Promise<Out> => {
    const from = offsets[i] ?? 0
    const to = from + Math.ceil(row.m / Tx) * Tx
    const part = (x: Tensor): Tensor => ops.copy(x, { rows: [from, from + row.m], columns: [0, row.n] })
    const damped = (hs[i] ?? []).map(one => one.damped)
    const { sv, errors } = await errorOf(ops, row, part(scaled), part(values), damped, settings)
    const ownCodes = ops.copy(codes, { rows: [(from / Tx) * tileRow, (to / Tx) * tileRow] })
    const [error, total] = await errors
    return {
      ...kept(row),
      weight: undefined,
      sv,
      codes: ownCodes,
      codebook: settings.json,
      scale: (sigma[i] ?? 0) / (number(await found) * codec.rms),
      proxyError: sigma[i] === 0 ? Math.sign(rms[i] ?? 0) : shareOf(error, total),
    }
  }
  const [out] = await Promise.all([Promise.all(rows.map(finish)), ...enqueued])
  const wrong = out.filter(row => !Number.isFinite(row.proxyError)).map(row => row.linear)
  if (wrong.length > 0)
    throw new PipeError('input', {
      where: `round  ${wrong.join(', ')}`,
      message: 'tr(WHWᵀ), or the error that is a share of it, is no finite number above 0.',
      hint: 'H holds NaN, is not positive, or is too large for f32: check the checkpoint and the calibration text.',
    })
  return out
}

/** error/total; 0 where H is 0, NaN where it is not positive or overflows. */
function shareOf(error: number, total: number): number {
  if (!(total >= 0 && Number.isFinite(total))) return Number.NaN
  return error === 0 && total === 0 ? 0 : error / total
}

/** Traces of the error, and sv, with a scale for each output if wanted. Takes w and v over. */
async function errorOf(
  ops: Ops,
  row: In,
  weights: Tensor,
  values: Tensor,
  hs: readonly Tensor[],
  { rowScale }: Settings,
): Promise<{ sv: TensorRef | Tensor | undefined; errors: Promise<[error: number, total: number]> }> {
  using w = weights
  using v = values
  if (!rowScale) return { sv: row.sv, errors: traces(ops, w, v, hs) }
  using sv = await required(row.sv, row, 'sv').open(ops, 'f32')
  const { m: order } = JSON.parse(row.transform) as { m: number }
  return await rowScaled(ops, { w, v, hs, sv, order })
}

/** What errors add to what is rounded, as a multiple of themselves: the mean over all rows. */
function feedbackOf(rows: readonly In[], hs: readonly (readonly Factored[])[]): number {
  const mean = (x: readonly number[]): number => x.reduce((sum, one) => sum + one, 0) / x.length
  const all = rows.reduce((sum, { m }) => sum + m, 0)
  return rows.reduce((sum, { m }, i) => sum + (m / all) * mean((hs[i] ?? []).map(({ feedback }) => feedback)), 0)
}

/** s, f64 [1]: as found on the sample, or as given. */
function scaleOf(ops: Ops, codec: Codec, scale: 'search' | number, feedback: number, sampled: () => Tensor): Tensor {
  if (scale !== 'search') return ops.tensor(new Float64Array([scale]), [1])
  using sample = sampled()
  return searchScale(ops, codec, sample, feedback)
}

function rootMeanSquare(squares: number, row: In): number {
  const rms = Math.sqrt(squares / (row.m * row.n))
  if (Number.isFinite(rms)) return rms
  throw new PipeError('input', {
    where: `round  ${row.linear}`,
    message: 'The weights hold NaN or infinite values.',
    hint: 'Check the checkpoint; a linear that is broken cannot be rounded.',
  })
}

/** Raises where a linear came without what rounding needs. */
function required(ref: TensorRef | undefined, row: In, column: string): TensorRef {
  if (ref) return ref
  throw new PipeError('failed', {
    where: `round  ${row.linear}`,
    message: `The row has no ${column}.`,
    hint: `Every linear must carry "${column}" when it reaches "round".`,
  })
}
