/**
 * training: epochs of Adam over parameters, with what is best on sequences that are not trained on kept.
 *
 *   loss of a batch → gradients, added up over `update` batches and what is left of an epoch → one step of Adam
 *
 * The state before the first step counts as the first candidate, so that training never makes the validation loss worse.
 * QTIP (arXiv:2406.11235) §5 and its published code; QuIP# (arXiv:2402.04396) §5.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { type Context, type KnownRow, type Mistake, PipeError } from '../../pipeline/define.js'
import type { Checkpoint } from './checkpoint.js'
import type { Precision } from './precision.js'
import { modelWindows } from './text.js'
import { textMistakes } from './text-mistakes.js'
import type { Parameter } from './trainable.js'

/** Parameters with one learning rate. */
export interface Group {
  readonly parameters: readonly Parameter[]
  readonly rate: number
}

/** Adam's moments of groups of parameters, zeros at first. */
export class Adam implements Disposable {
  readonly #moments = new Map<Parameter, { m: Tensor; v: Tensor }>()
  /** Steps done. */
  steps = 0

  constructor(
    readonly ops: Ops,
    readonly groups: readonly Group[],
  ) {
    for (const { value } of this.parameters) if (value.dtype !== 'f32') throw new Error(`adam: f32 is trained, not ${value.dtype}`)
    for (const parameter of this.parameters) {
      const { shape } = parameter.value
      this.#moments.set(parameter, { m: ops.zeros('f32', shape), v: ops.zeros('f32', shape) })
    }
  }

  get parameters(): Parameter[] {
    return this.groups.flatMap(group => [...group.parameters])
  }

  /** Uses up the gradients. */
  step(): void {
    this.steps++
    for (const { parameters, rate } of this.groups) {
      for (const parameter of parameters) {
        const { m, v } = this.moments(parameter)
        this.ops.adam(parameter.value, parameter.gradient, m, v, { step: this.steps, rate })
        parameter.clear(this.ops)
      }
    }
  }

  moments(parameter: Parameter): { m: Tensor; v: Tensor } {
    const found = this.#moments.get(parameter)
    if (found === undefined) throw new Error(`adam: "${parameter.name}" is not trained`)
    return found
  }

  [Symbol.dispose](): void {
    for (const { m, v } of this.#moments.values()) for (const tensor of [m, v]) tensor[Symbol.dispose]()
    this.#moments.clear()
  }
}

/** A copy of parameters' values, to return to. */
export class Snapshot implements Disposable {
  readonly values: readonly Tensor[]

  constructor(
    private readonly ops: Ops,
    private readonly parameters: readonly Parameter[],
  ) {
    this.values = parameters.map(({ value }) => ops.copy(value))
  }

  /** The values as they are now. */
  take(): void {
    for (const [i, { value }] of this.parameters.entries()) this.ops.assign(this.values[i] as Tensor, value)
  }

  restore(): void {
    for (const [i, { value }] of this.parameters.entries()) this.ops.assign(value, this.values[i] as Tensor)
  }

  [Symbol.dispose](): void {
    for (const value of this.values) value[Symbol.dispose]()
  }
}

export interface Schedule {
  readonly epochs: number
  /** Batches that go into one step. */
  readonly update: number
  /** Epochs from one look at the validation loss to the next. */
  readonly validate: number
  /** So many looks without a better loss end the training. */
  readonly patience: number
}

/** What a stage that trains is told: on what, how fast, how long. */
export interface TrainingParams extends Schedule {
  readonly text: string
  readonly sequences: number
  readonly length: number
  /** Sequences, the last ones, that only judge. */
  readonly validation: number
  readonly batch: number
  readonly rate: number
  readonly vectorRate: number
  readonly tableRate: number
  readonly precision: 'auto' | Precision
}

/** A split that no text can have. `where`: the stage in its graph. */
const splitMistakes = ({ sequences, validation }: { sequences: number; validation: number }, where: string): Mistake[] =>
  validation < sequences
    ? []
    : [
        {
          where,
          message: `validation: of ${sequences} sequences ${validation} are for validation: none is left to train on.`,
          hint: 'More "sequences", or a smaller "validation".',
        },
      ]

/** What is wrong with what it is told, for the model of these rows. */
export const trainingMistakes = async (
  rows: readonly KnownRow[],
  params: Pick<TrainingParams, 'text' | 'sequences' | 'length' | 'validation'>,
  where: string,
): Promise<readonly Mistake[]> => [...splitMistakes(params, where), ...(await textMistakes(rows, params, where))]

/** The sequences to train on, then those for validation. Raises PipeError, in the name of `stage`, when the text has none to train on. */
export async function trainingWindows(
  checkpoint: Checkpoint,
  { text, sequences, length, validation }: TrainingParams,
  stage: string,
  { note }: Context,
): Promise<readonly Int32Array[]> {
  const windows = await modelWindows(checkpoint, text, { length, count: sequences }, note)
  if (windows.length > validation) return windows
  throw new PipeError('input', {
    where: stage,
    message: `The text gives ${windows.length} sequences of ${length} tokens, and ${validation} are for validation: none is left to train on.`,
    hint: 'Give more text, shorter sequences ("length"), or a smaller "validation".',
  })
}

/** Where training is, all that is needed to go on from besides tensors. */
export interface Progress {
  epoch: number
  /** Batches of the epoch that are done. */
  batch: number
  /** Looks since the last better loss. */
  worse: number
  /** Validation losses: of the state training began with, and the best. */
  first: number
  best: number
}

export interface Training {
  readonly adam: Adam
  readonly best: Snapshot
  readonly schedule: Schedule
  /** The batches of an epoch, in order. */
  batches(epoch: number): readonly (readonly number[])[]
  /** Adds a batch's gradients; resolves to its loss. */
  learn(batch: readonly number[]): Promise<number>
  /** The loss on sequences that are not trained on; NaN or infinite where the model is broken. */
  validate(): Promise<number>
  /** After each step: where it is. Awaited. */
  stepped?(at: Readonly<Progress>, loss: number): Promise<void> | void
}

export interface Outcome extends Progress {
  /** The epoch, from 1, in which the loss was no finite number. */
  readonly diverged?: number
}

/** Trains, and leaves the parameters at their best. Goes on from `at`, where given. */
export async function train(o: Training, at?: Readonly<Progress>): Promise<Outcome> {
  const { adam, best, schedule } = o
  const first = at?.first ?? (await o.validate())
  const progress: Progress = { epoch: 0, batch: 0, worse: 0, first, best: first, ...at }
  const epochs = adam.parameters.length > 0 ? schedule.epochs : 0 // all rates may be 0
  let diverged: number | undefined
  while (progress.epoch < epochs && diverged === undefined) {
    const batches = o.batches(progress.epoch)
    while (progress.batch < batches.length && diverged === undefined) {
      const loss = await o.learn(batches[progress.batch] ?? [])
      progress.batch++
      if (!Number.isFinite(loss)) diverged = progress.epoch + 1
      else if (progress.batch % schedule.update === 0 || progress.batch === batches.length) {
        adam.step()
        await o.stepped?.(progress, loss)
      }
    }
    if (diverged !== undefined) break
    progress.batch = 0
    progress.epoch++
    if (progress.epoch % schedule.validate !== 0 && progress.epoch < epochs) continue
    const loss = await o.validate()
    if (!Number.isFinite(loss)) diverged = progress.epoch
    else if (loss < progress.best) {
      progress.best = loss
      progress.worse = 0
      best.take()
    } else if (++progress.worse >= schedule.patience) break
  }
  for (const parameter of adam.parameters) parameter.clear(adam.ops)
  best.restore()
  return { ...progress, ...(diverged === undefined ? {} : { diverged }) }
}

/** Indices in an order of their own for each epoch, cut into batches. */
export function shuffled(count: number, size: number, order: Float64Array): number[][] {
  const indices = Array.from({ length: count }, (_, i) => i).sort((a, b) => (order[a] ?? 0) - (order[b] ?? 0) || a - b)
  return Array.from({ length: Math.ceil(count / size) }, (_, i) => indices.slice(i * size, (i + 1) * size))
}
