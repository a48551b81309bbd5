/** How much a linear's output suffers from rounding: its relative proxy error where the code's mean squared error is 1. */
import { hadamardBlock } from '../../native/ops/hadamard/hadamard.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { type Context, PipeError, type Row } from '../../pipeline/define.js'
import type { linears } from '../../schemas/tables/linears.js'
import { hessianGroups } from '../model/groups.js'

/** Blocks of LDL, as tiles are wide; rows of noise that tr(D) is measured with: 1.5 % of it for n = 256, less for more. */
const block = 16
const noiseRows = 32
const damps = [0.01, 0.1, 1] as const

/** An H, damped, which WHWᵀ is measured with, and tr(D) of the same in a basis that mixes its columns, as rht does. */
interface Measured {
  readonly h: Tensor
  readonly trace: number
}

/**
 * Of each row ‖W‖²/n · tr(D)/tr(WHWᵀ), H damped, where its outputs have an H a group the mean of tr(D) and the sum of
 * tr(WHWᵀ) over them; linears that share H one after the other. 0 for a W or an H of zeros.
 */
export async function sensitivities(rows: readonly Row<typeof linears>[], context: Context): Promise<number[]> {
  const { ops } = context
  const out: number[] = []
  let known: { of: TensorRef | undefined; groups: Measured[] } = { of: undefined, groups: [] }
  const letGo = () => {
    for (const { h } of known.groups) h[Symbol.dispose]()
  }
  try {
    for (const [i, row] of rows.entries()) {
      context.signal.throwIfAborted()
      if (row.hessian === undefined || known.of !== row.hessian) {
        letGo()
        known = { of: row.hessian, groups: [] }
        for (let k = 0, g = hessianGroups(row); k < g; k++) known.groups.push(await dampedWithTrace(row, k, context))
      }
      using w = await row.weight.open(ops, 'f32')
      using squares = ops.sumSquares(w)
      const total = await totalOf(ops, w, known.groups)
      const [norm = 0] = await numbers(squares)
      const trace = known.groups.reduce((sum, one) => sum + one.trace, 0) / known.groups.length
      const error = total === 0 ? 0 : (norm / row.n) * (trace / total)
      if (!Number.isFinite(error))
        throw new PipeError('input', {
          where: `allocate  ${row.linear}`,
          message: 'Its weights or its Hessian hold NaN or infinite values.',
          hint: 'Check the checkpoint and the calibration text.',
        })
      out.push(error)
      context.progress(i + 1, rows.length, 'linears')
    }
  } finally {
    letGo()
  }
  return out
}

/** Σ_k tr(W_k H_k W_kᵀ) over groups of rows. */
async function totalOf(ops: Ops, w: Tensor, groups: readonly Measured[]): Promise<number> {
  const [m = 0, n = 0] = w.shape
  const each = m / groups.length
  let sum = 0
  for (const [k, { h }] of groups.entries()) {
    using rows = ops.copy(w, { rows: [k * each, (k + 1) * each] })
    using zero = ops.zeros('f32', [each, n])
    using traces = ops.proxyError(rows, zero, h)
    sum += (await numbers(traces))[0] ?? 0
  }
  return sum
}

/** Of group k of the row's outputs. */
async function dampedWithTrace(row: Row<typeof linears>, k: number, { ops, rng }: Context): Promise<Measured> {
  const where = `allocate  ${row.linear}`
  if (row.hessian === undefined)
    throw new PipeError('failed', { where, message: 'The row has no hessian.', hint: 'Put "hessian" before "allocate".' })
  using all = await row.hessian.open(ops, 'f32')
  using raw = ops.copy(all, { rows: [k * row.n, (k + 1) * row.n] })
  using signs = ops.tensor(rng('allocate', row.layer, row.shares).signs(row.n), [row.n])
  const order = hadamardBlock(row.n, row.n)
  for (const damp of damps) {
    const h = ops.damp(raw, damp)
    using right = ops.hadamard(h, { side: 'right', signs, block: order })
    using mixed = ops.hadamard(right, { side: 'left', signs, block: order })
    const trace = await traceOfD(ops, mixed, rng('noise', row.layer, row.shares).normal(noiseRows * row.n))
    if (trace !== undefined) return { h, trace }
    h[Symbol.dispose]()
  }
  using squares = ops.sumSquares(raw)
  if ((await numbers(squares))[0] === 0) return { h: ops.copy(raw), trace: 0 } // nothing is lost, whatever the bits
  throw new PipeError('input', { where, message: 'H is not positive definite, however damped.', hint: 'Calibrate with more tokens.' })
}

/**
 * tr(D) of H = (L+I)·D·(L+I)ᵀ: rows N of noise of variance 1 as the code's errors, E·(L+I) = N solved from the last block
 * to the first as LDLQ does, and tr(D) = E[tr(EHEᵀ)]/rows. Undefined: H is not positive definite. Sizes without whole blocks
 * are factored one by one.
 */
export async function traceOfD(ops: Ops, h: Tensor, noise: Float32Array): Promise<number | undefined> {
  const n = h.shape[0] ?? 0
  const width = n % block === 0 ? block : 1
  const made = ops.blockLdl(h, width)
  using l = made.l
  using pivot = made.pivot
  if ((await numbers(pivot))[0] !== -1) return undefined
  const rows = noise.length / n
  using e = ops.tensor(noise, [rows, n])
  for (let to = n - width; to > 0; to -= width) {
    const window = { columns: [to - width, to] as const }
    using z = ops.copy(e, window)
    using feedback = ops.zeros('f32', [rows, width])
    ops.gemm(feedback, e, l, { aWindow: { columns: [to, n] }, bWindow: { rows: [to, n], columns: [to - width, to] } })
    using solved = ops.add(z, feedback, { beta: -1 })
    ops.paste(e, solved, { column: to - width })
  }
  using zero = ops.zeros('f32', [rows, n])
  using traces = ops.proxyError(e, zero, h)
  return ((await numbers(traces))[0] ?? Number.NaN) / rows
}

const numbers = async (tensor: Tensor): Promise<Float64Array> => new Float64Array((await tensor.read()).slice().buffer)
