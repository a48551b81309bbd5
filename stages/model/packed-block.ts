/** packed-block: the weights of a block whose linears stay packed where there are kernels for that; all else is dense. */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import { blockName, type Step } from './architecture.js'
import type { Attend } from './attention.js'
import type { ModelConfig } from './config.js'
import { expectFinite } from './finite.js'
import { type Block, Opened, runStep } from './forward.js'
import { type LinearInput, PackedLinears, type PackedPrecision, type PackedWeights } from './linear.js'
import type { Weights } from './quantized.js'
import { Value } from './value.js'

export class PackedBlock implements Block {
  /** Activations are f32: what the products take and give. */
  readonly precision = 'f32'
  readonly #groups = new Map<string, PackedLinears>()
  /** Results that linears of one product have not asked for yet, and what they are of. */
  readonly #waiting = new Map<string, { x: Value; y: Value }>()

  private constructor(
    private readonly dense: Opened,
    /** Names of biases. */
    private readonly biases: ReadonlySet<string>,
    groups: readonly PackedLinears[],
  ) {
    for (const group of groups) for (const name of group.names) this.#groups.set(name, group)
  }

  /** Raises PipeError as Opened.open does. */
  static async open(ops: Ops, weights: Weights, layer: number, precision: PackedPrecision): Promise<PackedBlock> {
    const { checkpoint } = weights
    const tensors = checkpoint.expected.filter(tensor => tensor.layer === layer)
    const groups: PackedLinears[] = []
    const inputs = new Map<string, PackedWeights[]>()
    const open: Tensor[] = []
    try {
      for (const { name, role, shares } of tensors) {
        const one = role === 'linear' ? await weights.packed?.(name.replace(/\.weight$/, '')) : undefined
        if (one === undefined) continue
        open.push(one.trellis, one.su, one.sv)
        inputs.set(shares, [...(inputs.get(shares) ?? []), one])
      }
      const packed = [...inputs.values()].flat()
      await expectFinite(
        ops,
        checkpoint.path,
        packed.flatMap(({ linear, su, sv }) => [[`${linear}.SU`, su] as const, [`${linear}.SV`, sv] as const]),
      )
      for (const linears of inputs.values()) groups.push(...(await PackedLinears.group(ops, linears, precision)))
      const known = new Set(packed.map(({ linear }) => `${linear}.weight`))
      const others = tensors.map(({ name }) => name).filter(name => !known.has(name))
      const biases = new Set(others.filter(name => name.endsWith('.bias')))
      return new PackedBlock(await Opened.open(ops, weights, others), biases, groups)
    } catch (error) {
      for (const part of [...groups, ...open]) part[Symbol.dispose]()
      throw error
    }
  }

  /** Bytes of codes and of dense linears that a row of x reads. */
  get bytes(): number {
    return [...new Set(this.#groups.values())].reduce((sum, group) => sum + group.bytes, this.dense.bytes)
  }

  get(name: string): Tensor {
    return this.dense.get(name)
  }

  /** Whether any linear is. */
  get isPacked(): boolean {
    return this.#groups.size > 0
  }

  /** Whether a linear (its name without .weight) is packed. */
  has(linear: string): boolean {
    return this.#groups.has(linear)
  }

  /** What a packed linear makes of its input, its bias and `add`. All linears of its product are made at once; each is given when it is asked for. */
  product(linear: string, input: LinearInput, add?: Value): Value {
    const waiting = this.#waiting.get(linear)
    this.#waiting.delete(linear)
    if (waiting?.x === input.x && add === undefined) return waiting.y
    waiting?.y[Symbol.dispose]()
    const group = this.#groups.get(linear)
    // Something is added to linears that are alone in their product.
    if (group === undefined || (add !== undefined && group.names.length > 1)) throw new Error(`${linear} is no packed linear of its own`)
    const biases = group.names.map(name => (this.biases.has(`${name}.bias`) ? this.get(`${name}.bias`) : undefined))
    for (const [i, y] of group.apply(input, biases, add).entries()) this.#waiting.set(group.names[i] as string, { x: input.x, y })
    const made = this.#waiting.get(linear)
    this.#waiting.delete(linear)
    return (made as { y: Value }).y
  }

  [Symbol.dispose](): void {
    for (const { y } of this.#waiting.values()) y[Symbol.dispose]()
    for (const part of [this.dense, ...new Set(this.#groups.values())]) part[Symbol.dispose]()
  }
}

/** Raises PipeError where there are no products in int8: on a GPU, and where no linear stays packed. */
export function expectInt8(ops: Ops, path: string, isPacked: boolean): void {
  if (ops.device.kind === 'cpu' && isPacked) return
  throw new PipeError('input', {
    where: path,
    message: isPacked
      ? `activations in int8 are for the CPU, and ${ops.device.name} was asked for.`
      : 'activations in int8 are for linears that stay packed, and here none does.',
    hint: isPacked
      ? 'Leave out --activations, or give --device cpu.'
      : 'Leave out --activations; or take a quantized model in a code that has products, with --weights packed.',
  })
}

/**
 * As forwardBlock, with attention to a cache: takes over the residual stream that enters, gives the one that leaves. What packed linears alone
 * read is left to them: norms, gates, and the end of the product that made it; so one block's last product is finished by the next block's first.
 */
export function forwardPacked(ops: Ops, config: ModelConfig, layer: number, block: PackedBlock, x: Value, attend: Attend): Value {
  const nameOf = (step: Step): string => `${blockName(config.architecture, layer)}.${step.name}`
  const values = new Map<string, LinearInput>([['x', { x }]])
  for (const [i, step] of config.steps.entries()) {
    const inputs = step.reads.map(name => values.get(name) as LinearInput)
    const [first, second] = inputs as [LinearInput, LinearInput]
    let out: LinearInput
    if (isPacked(step)) {
      const isAdded = step.op === 'add linear'
      out = { x: block.product(nameOf(step), isAdded ? second : first, isAdded ? first.x : undefined) }
    } else if (step.op === 'rmsnorm' && isLeft(i)) {
      out = { x: first.x.share(), norm: { weight: block.get(`${nameOf(step)}.weight`), eps: config.eps } }
    } else if (step.op === 'silu·' && isLeft(i)) out = { x: second.x.share(), gate: first.x.share() }
    else if (step.op === 'rmsnorm' && isLast(step) && first.x.norm({ weight: block.get(`${nameOf(step)}.weight`), eps: config.eps }))
      out = { x: first.x.share() }
    else {
      Value.finish(inputs.map(({ x }) => x))
      const tensors = inputs.map(({ x }) => x.tensor)
      out = { x: Value.of(runStep(ops, config, layer, block, step, tensors, attend)) }
    }
    for (const { value } of step.dies) {
      const dead = values.get(value)
      values.delete(value)
      for (const part of [dead?.x, dead?.gate]) part?.[Symbol.dispose]()
    }
    values.set(step.out, out)
  }
  return (values.get('x') as LinearInput).x

  function isPacked(step: Step): boolean {
    return (step.op === 'linear' || step.op === 'add linear') && block.has(nameOf(step))
  }
  /** Whether nothing reads what this step reads after it. */
  function isLast(step: Step): boolean {
    return step.reads.every(name => step.dies.some(({ value }) => value === name))
  }
  /** Whether packed linears alone read what step i makes. */
  function isLeft(i: number): boolean {
    const name = config.steps[i]?.out ?? ''
    const later = config.steps.slice(i + 1)
    const again = later.findIndex(({ out }) => out === name)
    const readers = (again < 0 ? later : later.slice(0, again + 1)).filter(({ reads }) => reads.includes(name))
    return readers.every(step => isPacked(step) && step.reads.at(-1) === name && !step.reads.slice(0, -1).includes(name))
  }
}
