/** The rounded model as it is trained: all its blocks with their parameters on the device, forward and back. */
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { type Context, PipeError, type Row } from '../../pipeline/define.js'
import type { rounded } from '../../schemas/tables/rounded.js'
import { blockName, headName } from '../model/architecture.js'
import { backwardBlock, forwardHeadWithTape, forwardWithTape } from '../model/backward.js'
import type { Checkpoint } from '../model/checkpoint.js'
import type { Rotary } from '../model/forward.js'
import type { Precision } from '../model/precision.js'
import { Codecs, RoundedLinear } from '../model/rounded-linear.js'
import { DenseLinear, disposeBlock, Parameter, parametersOf, type TrainableBlock, type TrainableLinear } from '../model/trainable.js'
import type { Group, TrainingParams } from '../model/training.js'
import { logitsBytes, type Predictions, type TeacherKind } from './teacher.js'

export type In = Row<typeof rounded>

export interface Params extends TrainingParams {
  readonly loss: 'cross-entropy' | 'kl'
  readonly teacher?: TeacherKind
  readonly embedding?: boolean
}

type Options = Omit<Params, 'precision'> & { readonly precision: Precision }

export class Student implements Disposable {
  readonly #blocks: TrainableBlock[] = []
  readonly #rounded = new Map<string, RoundedLinear>()
  /** Norms, biases and the head by their full names. */
  readonly #dense = new Map<string, Parameter>()
  #codecs: Codecs | undefined
  /** A parameter where it is trained, and the head's as well where they are one. */
  #embedding: Tensor | Parameter | undefined
  #head: TrainableBlock | undefined

  private constructor(
    private readonly context: Context,
    private readonly checkpoint: Checkpoint,
    private readonly windows: readonly Int32Array[],
    private readonly rotary: Rotary,
    private readonly o: Options,
  ) {}

  static async open(
    context: Context,
    checkpoint: Checkpoint,
    rows: readonly In[],
    windows: readonly Int32Array[],
    rotary: Rotary,
    o: Options,
  ): Promise<Student> {
    const student = new Student(context, checkpoint, windows, rotary, o)
    try {
      await student.#open(new Map(rows.map(row => [row.linear, row])))
      return student
    } catch (error) {
      student[Symbol.dispose]()
      throw error
    }
  }

  async #open(rows: ReadonlyMap<string, In>): Promise<void> {
    const { ops } = this.context
    const { config } = this.checkpoint
    const { architecture, tied, sizes } = config
    const weight = (name: string): TensorRef => {
      const found = rows.get(name)?.weight
      if (found !== undefined) return found
      throw new PipeError('failed', {
        where: `distill  ${name}`,
        message: 'No row has this tensor.',
        hint: 'Put "distill" behind "round" or "finetune", with every row of the model.',
      })
    }
    const parameter = async (name: string): Promise<Parameter> => {
      const made = Parameter.of(ops, name, await weight(name).open(ops, 'f32'))
      this.#dense.set(name, made)
      return made
    }
    const codecs = new Codecs(ops)
    this.#codecs = codecs
    for (let layer = 0; layer < sizes.layers; layer++) {
      const [norms, linears] = [new Map<string, Parameter>(), new Map<string, TrainableLinear>()]
      this.#blocks.push({ norms, linears })
      for (const { op, name, bias } of config.steps) {
        if (name === undefined) continue
        const full = `${blockName(architecture, layer)}.${name}`
        if (op === 'rmsnorm') {
          norms.set(name, await parameter(`${full}.weight`))
          continue
        }
        const row = rows.get(full)
        const added = bias ? await parameter(`${full}.bias`) : undefined
        if (row === undefined) {
          linears.set(name, new DenseLinear(ops, await weight(`${full}.weight`).open(ops, 'f32'), added))
          continue
        }
        const rounded = await RoundedLinear.open(ops, codecs, row, { stage: 'distill', trainTable: this.o.tableRate > 0, bias: added })
        linears.set(name, rounded.linear)
        this.#rounded.set(full, rounded)
      }
    }
    const table = `${architecture.embed}.weight`
    const embedding = this.o.embedding ? await parameter(table) : await weight(table).open(ops, 'f32')
    this.#embedding = embedding
    const norms = new Map([[architecture.norm, await parameter(`${architecture.norm}.weight`)]])
    const linears = new Map<string, TrainableLinear>()
    this.#head = { norms, linears }
    // A head that was rounded, or left alone by name, is a tensor of its own, whatever the original's is.
    const [own, stepName] = [headName(architecture, false), headName(architecture, tied)]
    const row = rows.get(own)
    if (row !== undefined) {
      const rounded = await RoundedLinear.open(ops, codecs, row, { stage: 'distill', trainTable: this.o.tableRate > 0 })
      linears.set(stepName, rounded.linear)
      this.#rounded.set(own, rounded)
    } else if (tied && !rows.has(`${own}.weight`)) {
      linears.set(stepName, new DenseLinear(ops, embedding instanceof Parameter ? embedding : ops.copy(embedding)))
    } else linears.set(stepName, new DenseLinear(ops, await parameter(`${own}.weight`)))
  }

  /** All that is trained, with its rates. */
  groups(): Group[] {
    const { rate, vectorRate, tableRate } = this.o
    const all = [...this.#blocks, ...(this.#head ? [this.#head] : [])].flatMap(parametersOf)
    const dense = new Set(this.#dense.values())
    const vectors = all.filter(({ name }) => name === 'SU' || name === 'SV')
    const tables = all.filter(parameter => !dense.has(parameter) && !vectors.includes(parameter))
    const groups = [
      { parameters: [...dense], rate },
      { parameters: vectors, rate: vectorRate },
      { parameters: tables, rate: tableRate },
    ]
    return groups.filter(group => group.rate > 0)
  }

  /** Mean loss of a batch against the original's predictions of it; with `learn` its gradients are added. */
  async loss(batch: readonly number[], original: Predictions, learn: boolean): Promise<number> {
    const { ops, signal } = this.context
    const { config } = this.checkpoint
    const precision = learn ? this.o.precision : 'f32'
    const { length } = this.o
    const positions = this.rotary.of(length)
    const entering: Tensor[] = []
    try {
      let x = this.#embed(batch)
      for (const [layer, block] of this.#blocks.entries()) {
        signal.throwIfAborted()
        if (learn) entering.push(ops.copy(x))
        const { out, tape } = forwardWithTape(ops, config, layer, block, x, positions, precision)
        tape[Symbol.dispose]()
        x = out
      }
      using last = x
      const { loss, gradient } = await this.#predict(last, original, batch.length, learn)
      if (gradient === undefined) return loss
      let dx = gradient
      for (let layer = this.#blocks.length - 1; layer >= 0; layer--) {
        const { out, tape } = forwardWithTape(
          ops,
          config,
          layer,
          this.#blocks[layer] as TrainableBlock,
          entering.pop() as Tensor,
          positions,
          precision,
        )
        out[Symbol.dispose]()
        dx = backwardBlock(ops, tape, dx)
      }
      using slope = dx
      if (this.#embedding instanceof Parameter) {
        using rows = this.#ids(batch)
        ops.addEmbedGradient(this.#embedding.gradient, rows, slope)
      }
      return loss
    } finally {
      for (const x of entering) x[Symbol.dispose]()
    }
  }

  /** The columns of a row that training has changed: copies. */
  columns(row: In): Partial<{ weight: Tensor; su: Tensor; sv: Tensor; table: Tensor | undefined }> {
    const { ops } = this.context
    const rounded = this.#rounded.get(row.linear)
    if (rounded !== undefined) return rounded.columns(ops)
    const dense = this.#dense.get(row.linear)
    return dense === undefined ? {} : { weight: ops.copy(dense.value) }
  }

  [Symbol.dispose](): void {
    for (const block of [...this.#blocks, ...(this.#head ? [this.#head] : [])]) disposeBlock(block)
    for (const part of [...this.#rounded.values(), ...this.#dense.values()]) part[Symbol.dispose]()
    this.#embedding?.[Symbol.dispose]()
    this.#codecs?.[Symbol.dispose]()
  }

  #embed(batch: readonly number[]): Tensor {
    const { ops } = this.context
    using rows = this.#ids(batch)
    const table = this.#embedding as Tensor | Parameter
    return ops.embed(table instanceof Parameter ? table.value : table, rows)
  }

  #ids(batch: readonly number[]): Tensor {
    const ids = Int32Array.from(batch.flatMap(i => [...(this.windows[i] ?? [])]))
    return this.context.ops.tensor(ids, [ids.length])
  }

  /** The loss by the logits of x f32 [t, d], and its gradient by x; the head's own gradients are added. */
  async #predict(x: Tensor, original: Predictions, sequences: number, learn: boolean): Promise<{ loss: number; gradient?: Tensor }> {
    const { ops } = this.context
    const { config } = this.checkpoint
    const [t = 0, d = 0] = x.shape
    const { length } = this.o
    const predictions = sequences * (length - 1)
    const rows = Math.max(1, Math.floor(logitsBytes / (4 * config.sizes.vocab)))
    const gradient = learn ? ops.zeros('f32', [t, d]) : undefined
    let loss = 0
    for (let from = 0; from < t; from += rows) {
      const part: [number, number] = [from, Math.min(t, from + rows)]
      // The last token of a sequence has nothing to predict.
      const counts = Float32Array.from({ length: part[1] - from }, (_, i) => ((from + i + 1) % length === 0 ? 0 : 1))
      using mask = ops.tensor(counts, [counts.length])
      const entering = ops.copy(x, { rows: part })
      const { out, tape } = forwardHeadWithTape(ops, config, this.#head as TrainableBlock, entering, learn ? this.o.precision : 'f32')
      using student = out
      using teacher = original.logits(part, student)
      const { divergence, crossEntropy, gradient: all } = ops.klGradient(teacher, student, { factor: 1 / predictions })
      using kl = divergence
      using entropy = crossEntropy
      using unmasked = all
      if (gradient === undefined) tape[Symbol.dispose]()
      else {
        using dx = backwardBlock(ops, tape, ops.scale(unmasked, { rows: mask }))
        ops.paste(gradient, dx, { row: from })
      }
      const known = this.o.loss === 'kl' ? undefined : original.entropy
      const losses = new Float32Array((await (this.o.loss === 'kl' || known ? kl : entropy).read()).slice().buffer)
      loss += losses.reduce((sum, x, i) => sum + (counts[i] === 0 ? 0 : x + (known?.[from + i] ?? 0)), 0)
    }
    return { loss: loss / predictions, ...(gradient && { gradient }) }
  }
}
