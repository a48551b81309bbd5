/** A block while it is rounded linear by linear: its parameters, and how they are trained against the original block. */
import type { Tensor } from '../../native/tensor.js'
import type { Context, Row } from '../../pipeline/define.js'
import type { linears } from '../../schemas/tables/linears.js'
import type { rounded } from '../../schemas/tables/rounded.js'
import { blockName } from '../model/architecture.js'
import { backwardBlock, forwardWithTape } from '../model/backward.js'
import type { ModelConfig } from '../model/config.js'
import type { Opened, Rotary } from '../model/forward.js'
import type { Precision } from '../model/precision.js'
import type { Sequences } from '../model/sequences.js'
import { Codecs, RoundedLinear } from '../model/rounded-linear.js'
import { disposeBlock, openTrainable, Parameter, type TrainableBlock, type TrainableLinear } from '../model/trainable.js'
import { Adam, type Outcome, shuffled, Snapshot, train, type TrainingParams } from '../model/training.js'

type In = Row<typeof linears>

interface Options extends Omit<TrainingParams, 'sequences' | 'precision'> {
  readonly precision: Precision
  readonly sequences: Sequences
  readonly rotary: Rotary
}

export class TrainedBlock implements Disposable {
  readonly #norms: TrainableBlock['norms']
  readonly #linears: Map<string, TrainableLinear>
  readonly #quantized = new Map<string, RoundedLinear>()
  readonly #codecs: Codecs
  readonly #prefix: string
  #first: number | undefined
  #last = Number.NaN

  private constructor(
    private readonly context: Context,
    private readonly config: ModelConfig,
    private readonly layer: number,
    dense: TrainableBlock,
    private readonly o: Options,
  ) {
    this.#norms = dense.norms
    this.#linears = new Map(dense.linears)
    this.#codecs = new Codecs(context.ops)
    this.#prefix = `${blockName(config.architecture, layer)}.`
  }

  /** Starts as the original block, whose tensors it copies. */
  static async open(context: Context, config: ModelConfig, layer: number, original: Opened, o: Options): Promise<TrainedBlock> {
    const { ops } = context
    const dense = await openTrainable(ops, config, layer, async name => ops.copy(original.get(name)))
    return new TrainedBlock(context, config, layer, dense, o)
  }

  /** The rows as the architecture orders them: v, q, k, o, up, gate, down in a Llama. */
  inOrder(rows: readonly In[]): In[] {
    const order = this.config.architecture.quantize
    const place = (row: In): number => (order.indexOf(this.#nameOf(row.linear)) + order.length + 1) % (order.length + 1)
    return [...rows].sort((a, b) => place(a) - place(b))
  }

  /** W of a linear that is not rounded yet, as training has left it; the block's own. */
  weight(linear: string): Tensor {
    return this.#parameter(this.#nameOf(linear), 'weight').value
  }

  /** A norm or a bias, by its full name, as training has left it: a copy. Undefined: it is none of the block's. */
  trained(name: string): Tensor | undefined {
    const path = this.#nameOf(name)
    const at = path.lastIndexOf('.')
    const [owner, ending] = [path.slice(0, at), path.slice(at + 1)]
    const found = this.#norms.get(owner) ?? this.#linears.get(owner)?.parameters.get(ending)
    return found && this.context.ops.copy(found.value)
  }

  /** From now on the linear is what `row` decodes to; its SU, SV and bias are trained on. */
  async replace(linear: string, row: Row<typeof rounded>): Promise<void> {
    const { ops } = this.context
    const name = this.#nameOf(linear)
    const before = this.#linears.get(name)
    const bias = before?.parameters.get('bias')
    const quantized = await RoundedLinear.open(ops, this.#codecs, row, {
      stage: 'finetune',
      trainTable: this.o.tableRate > 0,
      bias: bias && Parameter.of(ops, 'bias', ops.copy(bias.value)),
    })
    before?.[Symbol.dispose]()
    this.#linears.set(name, quantized.linear)
    this.#quantized.set(name, quantized)
  }

  /** Trains all there is, as after rounding `linear`. `told` hears of sequences done and the loss. */
  async train(linear: string, told: (sequences: number, loss: number) => void): Promise<void> {
    const { context, o } = this
    const { ops } = context
    const count = o.sequences.count - o.validation
    const parts = [...this.#linears.values()].flatMap(one => [...one.parameters])
    const of = (...names: string[]): Parameter[] => parts.flatMap(([name, part]) => (names.includes(name) ? [part] : []))
    const tables = parts.flatMap(([name, part]) => (['weight', 'bias', 'SU', 'SV'].includes(name) ? [] : [part]))
    using adam = new Adam(
      ops,
      [
        { parameters: [...this.#norms.values(), ...of('weight', 'bias')], rate: o.rate },
        { parameters: of('SU', 'SV'), rate: o.vectorRate },
        { parameters: tables, rate: o.tableRate },
      ].filter(group => group.rate > 0),
    )
    using best = new Snapshot(ops, adam.parameters)
    const outcome = await train({
      adam,
      best,
      schedule: o,
      batches: epoch => shuffled(count, o.batch, context.rng('finetune', linear, epoch).uniform(count)),
      learn: batch => this.#loss(batch, true),
      validate: async () => {
        let sum = 0
        for (let from = count; from < o.sequences.count; from += o.batch) {
          const batch = Array.from({ length: Math.min(o.batch, o.sequences.count - from) }, (_, i) => from + i)
          sum += batch.length * (await this.#loss(batch, false))
        }
        return sum / o.validation
      },
      stepped: ({ epoch, batch }, loss) => told(epoch * count + Math.min(batch * o.batch, count), loss),
    })
    this.#tell(linear, outcome)
  }

  /** The columns that training has changed. */
  result(linear: string): { weight: undefined; su: Tensor; sv: Tensor; table: Tensor | undefined } {
    const found = this.#quantized.get(this.#nameOf(linear))
    if (found === undefined) throw new Error(`${linear} is not rounded`)
    return { weight: undefined, ...found.columns(this.context.ops) }
  }

  /** One sentence: what training after the last linears was worth. */
  summary(): string {
    return `layer ${this.layer}: validation loss ${this.#first?.toExponential(3)} after the first linear, ${this.#last.toExponential(3)} at the end`
  }

  [Symbol.dispose](): void {
    disposeBlock({ norms: this.#norms, linears: this.#linears })
    for (const quantized of this.#quantized.values()) quantized[Symbol.dispose]()
    this.#codecs[Symbol.dispose]()
  }

  /** Mean squared error of a batch against the original block; with `learn` its gradients are added. */
  async #loss(batch: readonly number[], learn: boolean): Promise<number> {
    const { context, config, layer, o } = this
    const { ops, signal } = context
    signal.throwIfAborted()
    const x = await o.sequences.gather('entering', batch)
    using target = await o.sequences.gather('leaving', batch)
    const block = { norms: this.#norms, linears: this.#linears }
    const { out, tape } = forwardWithTape(ops, config, layer, block, x, o.rotary.of(o.length), learn ? o.precision : 'f32')
    using y = out
    const { sum, gradient } = ops.meanSquaredError(y, target)
    using total = sum
    if (learn) backwardBlock(ops, tape, gradient)[Symbol.dispose]()
    else for (const unused of [tape, gradient]) unused[Symbol.dispose]()
    return (new Float64Array((await total.read()).slice().buffer)[0] ?? Number.NaN) / y.size
  }

  #tell(linear: string, { first, best, diverged }: Outcome): void {
    this.#first ??= first
    this.#last = best
    if (diverged === undefined) return
    const { rate, vectorRate, tableRate } = this.o
    this.context.note(
      `finetune ${linear}: the loss was no finite number in epoch ${diverged}; the best state before is kept. ` +
        `Lower the learning rates (rate ${rate}, vectorRate ${vectorRate}, tableRate ${tableRate}).`,
    )
  }

  #nameOf(tensor: string): string {
    if (!tensor.startsWith(this.#prefix)) throw new Error(`${tensor} is not in ${this.#prefix}`)
    return tensor.slice(this.#prefix.length)
  }

  #parameter(name: string, ending: string): Parameter {
    const found = this.#linears.get(name)?.parameters.get(ending)
    if (found === undefined) throw new Error(`layer ${this.layer}: no ${ending} of ${name} is trained`)
    return found
  }
}
