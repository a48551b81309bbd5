/**
 * The factor of H̃ that LDLQ feeds back through, with as much damping as it takes.
 *
 *   H̃ + damp·mean(diag H̃)·I = (L + I)·D·(L + I)ᵀ
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { type Context, PipeError } from '../../pipeline/define.js'
import { hessianGroups } from '../model/groups.js'
import { number } from './scale.js'

/** The least damping tried after none, the factor between tries, and the last: beyond it H̃ is mostly the identity. */
const ladder = { first: 1e-3, factor: 10, last: 1 } as const

export interface Factored {
  readonly damped: Tensor
  readonly l: Tensor | undefined
  /** ‖L‖²/n: with errors of variance e in every column, a column is fed back e·‖L‖²/n on the average. */
  readonly feedback: number
}

/** h f32 [n, n] → damped f32 [n, n] and l f32 [n', n'], n' = n rounded up to whole blocks. Without feedback nothing is factored, nor an H of 0. */
export async function factor(
  ops: Ops,
  h: Tensor,
  o: { block: number; damp: number; feedback: boolean; where: string; note(text: string): void },
): Promise<Factored> {
  const n = h.shape[0] ?? 0
  for (let damp = o.damp; ; damp = Math.max(ladder.first, damp * ladder.factor)) {
    const damped = ops.damp(h, damp)
    if (!o.feedback) return { damped, l: undefined, feedback: 0 }
    using whole = padded(ops, damped, o.block)
    const { l, pivot } = ops.blockLdl(whole ?? damped, o.block)
    using _ = pivot
    using squares = ops.sumSquares(l)
    const [pivots, sum] = await Promise.all([pivot.read(), squares.read()])
    const [row = Number.NaN, value = Number.NaN] = new Float64Array(pivots.slice().buffer)
    if (row === -1) {
      if (damp > o.damp) o.note(`${o.where}: H is not positive definite with damp ${o.damp}; used ${damp}`)
      return { damped, l, feedback: number(sum) / n }
    }
    l[Symbol.dispose]()
    if (await isZero(ops, h)) {
      o.note(`${o.where}: H is 0, as its input or its gradient always is: rounded without feedback`)
      return { damped, l: undefined, feedback: 0 }
    }
    damped[Symbol.dispose]()
    if (damp * ladder.factor > ladder.last || !Number.isFinite(value))
      throw new PipeError('input', {
        where: o.where,
        message: `H is not positive definite with damp ${damp}: pivot ${row} is ${value.toExponential(1)} (n = ${n}).`,
        hint: Number.isFinite(value)
          ? 'Calibrate with more tokens than n, or round with "feedback": false.'
          : 'H holds NaN or infinite values: check the checkpoint and the calibration text.',
      })
  }
}

/** H of an input that is always 0, or of gradients that are: no damping makes it positive definite. */
async function isZero(ops: Ops, h: Tensor): Promise<boolean> {
  using squares = ops.sumSquares(h)
  return number(await squares.read()) === 0
}

interface Linear {
  readonly linear: string
  readonly m: number
  readonly n: number
  readonly hessian?: TensorRef | undefined
}

/** The factors of the H̃ of linears that are rounded together, for codes whose tiles differ in width: each made once. */
export class Factors implements Disposable {
  readonly #made = new Map<TensorRef, Map<number, Factored[]>>()

  constructor(
    private readonly o: { readonly damp: number; readonly feedback: boolean },
    private readonly context: Context,
  ) {}

  /** Of all these, in their order. */
  async all(rows: readonly Linear[], block: number): Promise<readonly (readonly Factored[])[]> {
    const all: (readonly Factored[])[] = []
    for (const row of rows) all.push(await this.of(row, block))
    return all
  }

  /** Of each group of the linear's outputs; the same ones for linears that share H̃. */
  async of(row: Linear, block: number): Promise<readonly Factored[]> {
    const { linear, hessian } = row
    const where = `round  ${linear}`
    if (hessian === undefined) {
      throw new PipeError('failed', {
        where,
        message: 'The row has no hessian.',
        hint: 'Every linear must carry "hessian" when it reaches "round".',
      })
    }
    const known = this.#made.get(hessian)?.get(block)
    if (known !== undefined) return known
    const { ops, note } = this.context
    const groups = hessianGroups(row)
    const made: Factored[] = []
    this.#made.set(hessian, (this.#made.get(hessian) ?? new Map<number, Factored[]>()).set(block, made))
    using all = await hessian.open(ops, 'f32')
    for (let k = 0; k < groups; k++) {
      const own = groups === 1 ? undefined : ops.copy(all, { rows: [k * row.n, (k + 1) * row.n] })
      try {
        const at = groups === 1 ? where : `${where}, group ${k} of outputs`
        made.push(await factor(ops, own ?? all, { ...this.o, block, where: at, note }))
      } finally {
        own?.[Symbol.dispose]()
      }
    }
    return made
  }

  [Symbol.dispose](): void {
    for (const { damped, l } of [...this.#made.values()].flatMap(blocks => [...blocks.values()].flat())) {
      damped[Symbol.dispose]()
      l?.[Symbol.dispose]()
    }
  }
}

/** H with an identity below it, to whole blocks: the columns added have no part in the others. Nothing where they are whole. */
function padded(ops: Ops, h: Tensor, block: number): Tensor | undefined {
  const n = h.shape[0] ?? 0
  const whole = Math.ceil(n / block) * block
  if (whole === n) return undefined
  const out = ops.zeros('f32', [whole, whole])
  const more = whole - n
  const identity = new Float32Array(more * more)
  for (let i = 0; i < more; i++) identity[i * more + i] = 1
  using corner = ops.tensor(identity, [more, more])
  ops.paste(out, h, {})
  ops.paste(out, corner, { row: n, column: n })
  return out
}
