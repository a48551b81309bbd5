/**
 * forward: the model's own computation, one block at a time. The interpreter walks the architecture's steps through
 * ops; sequences of equal length are stacked, so the residual stream x is f32 [sequences·length, d]. Everything is
 * enqueued, nothing awaited, but the opening of weights.
 *
 * In bf16 the matrices are bf16, and so is all between the residual stream and what is added to it: what a norm gives,
 * what linears read and give, queries, keys, values. Sums, norms and softmax are in f32, and so is the residual stream,
 * to which products are added before they are rounded: 8 bytes moved an element more than in bf16, of 150 KB a token and
 * block of a 7B model 32, and an error that does not grow with the number of blocks.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { blockName, headName, type Step } from './architecture.js'
import { type Attend, type Positions, within } from './attention.js'
import type { ModelConfig, Rope } from './config.js'
import { expectFinite } from './finite.js'
import type { Precision } from './precision.js'
import type { Weights } from './quantized.js'

/** The weights of a block, as the forward pass reads them. */
export interface Block extends Disposable {
  /** Of what linears read and give. */
  readonly precision: Precision
  /** Bytes of all weights. */
  readonly bytes: number
  /** A dense tensor by its full name. Throws when it is none of those that are open. */
  get(name: string): Tensor
}

/** Tensors by name, all let go together. */
export class Opened implements Block {
  readonly #tensors = new Map<string, Tensor>()

  private constructor(readonly precision: Precision) {}

  /** Opens them, in bf16 the matrices alone. Raises PipeError as expectFinite does. */
  static async open(ops: Ops, weights: Weights, names: readonly string[], precision: Precision = 'f32'): Promise<Opened> {
    const opened = new Opened(precision)
    const matrices = new Set(weights.checkpoint.expected.filter(({ shape }) => shape.length === 2).map(({ name }) => name))
    try {
      for (const name of names) opened.#tensors.set(name, await weights.open(name, matrices.has(name) ? precision : 'f32'))
      await expectFinite(ops, weights.checkpoint.path, [...opened.#tensors])
      return opened
    } catch (error) {
      opened[Symbol.dispose]()
      throw error
    }
  }

  get bytes(): number {
    return [...this.#tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  }

  get(name: string): Tensor {
    const tensor = this.#tensors.get(name)
    if (tensor === undefined) throw new Error(`tensor "${name}" was not opened`)
    return tensor
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#tensors.values()) tensor[Symbol.dispose]()
    this.#tensors.clear()
  }
}

/** The weights of a block, dense, opened once for all sequences. */
export const openBlock = (ops: Ops, weights: Weights, layer: number, precision: Precision = 'f32'): Promise<Opened> =>
  Opened.open(
    ops,
    weights,
    weights.checkpoint.expected.filter(tensor => tensor.layer === layer).map(({ name }) => name),
    precision,
  )

/**
 * Makes positions, and lets go of them: once for the longest length so far, of which a shorter one's are a copy on the device. A text
 * has windows of as many lengths as lines; tables for each would take the square of the longest.
 */
export class Rotary implements Disposable {
  #longest: Positions | undefined
  #shorter: Positions | undefined

  constructor(
    private readonly ops: Ops,
    private readonly config: ModelConfig,
  ) {}

  /** For sequences of `length` tokens, stacked or not. To be used before another length is asked for. */
  of(length: number): Positions {
    if (this.#longest === undefined || length > this.#longest.length) {
      letGo(this.#longest)
      this.#longest = this.#make(length)
    }
    const { cos, sin } = this.#longest
    if (length === this.#longest.length) return this.#longest
    if (length !== this.#shorter?.length) {
      letGo(this.#shorter)
      const rows = [0, length] as const
      this.#shorter = { length, cos: this.ops.copy(cos, { rows }), sin: this.ops.copy(sin, { rows }) }
    }
    return this.#shorter
  }

  #make(length: number): Positions {
    const half = this.config.sizes.e / 2
    const frequencies = rotaryFrequencies(this.config.rope, 2 * half)
    // Angles are products of f32 numbers rounded to f32, as transformers computes them: for late positions that shows.
    const angles = Float32Array.from({ length: length * half }, (_, i) => Math.floor(i / half) * (frequencies[i % half] ?? 0))
    const table = (f: (angle: number) => number): Tensor => this.ops.tensor(angles.map(f), [length, half])
    return { length, cos: table(Math.cos), sin: table(Math.sin) }
  }

  [Symbol.dispose](): void {
    letGo(this.#longest)
    letGo(this.#shorter)
  }
}

function letGo(positions: Positions | undefined): void {
  positions?.cos[Symbol.dispose]()
  positions?.sin[Symbol.dispose]()
}

/**
 * θ_i = theta^(−2i/e), i = 0 … e/2−1, in f32. Linear scaling divides all by `factor`. Llama 3 divides those with a
 * wavelength above original/low, leaves those below original/high, and blends between.
 */
export function rotaryFrequencies({ theta, scaling }: Rope, e: number): Float32Array {
  return Float32Array.from({ length: e / 2 }, (_, i) => {
    const frequency = Math.fround(1 / theta ** ((2 * i) / e))
    if (scaling === undefined) return frequency
    const { factor } = scaling
    if (scaling.type === 'linear') return frequency / factor
    const turns = (scaling.original * frequency) / (2 * Math.PI) // within the original context
    if (turns < scaling.low) return frequency / factor
    if (turns > scaling.high) return frequency
    const smooth = (turns - scaling.low) / (scaling.high - scaling.low)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
}

/** Told the input x [tokens, n], f32 or bf16 as the block is, of the linears named `shares`, once each of them has used it; x is the tap's to dispose. */
export type Tap = (shares: string, x: Tensor) => void

/**
 * One block, in the precision its weights are in: takes over the residual stream x f32 [sequences·length, d] that enters,
 * gives the one that leaves. Rows are whole sequences at these positions, or go on where a cache ends.
 */
export function forwardBlock(
  ops: Ops,
  config: ModelConfig,
  layer: number,
  block: Block,
  x: Tensor,
  positions: Positions | Attend,
  tap?: Tap,
): Tensor {
  const values = new Map<string, Tensor>([['x', x]])
  for (const step of config.steps) {
    const inputs = step.reads.map(name => {
      const value = values.get(name)
      if (value === undefined) throw new Error(`step ${step.out}: "${name}" is gone`)
      return value
    })
    const out = runStep(ops, config, layer, block, step, inputs, positions)
    for (const { value, shares } of step.dies) {
      const dead = values.get(value)
      values.delete(value)
      if (dead === out) continue // the residual stream, added to in place
      if (shares !== undefined && tap !== undefined && dead !== undefined) tap(shares, dead)
      else dead?.[Symbol.dispose]()
    }
    values.set(step.out, out)
  }
  const out = values.get('x')
  if (out === undefined) throw new Error('a block must make x')
  return out
}

/** One step on its inputs, which stay the caller's; what it gives may be the residual stream itself, added to in place. */
export function runStep(
  ops: Ops,
  config: ModelConfig,
  layer: number,
  block: Block,
  step: Step,
  inputs: readonly Tensor[],
  positions: Positions | Attend,
): Tensor {
  const [first, second, third] = inputs as [Tensor, Tensor, Tensor]
  const name = `${blockName(config.architecture, layer)}.${step.name}`
  const weight = (ending: string): Tensor => block.get(`${name}.${ending}`)
  const linear = (input: Tensor): Tensor => {
    const y = ops.matmul(input, weight('weight'), { transposeB: true }) // x·Wᵀ
    return step.bias ? biased(y) : y
  }
  /** Takes over y. */
  const biased = (y: Tensor): Tensor => {
    using unbiased = y
    return ops.addBias(unbiased, weight('bias'))
  }
  switch (step.op) {
    case 'rmsnorm':
      return ops.rmsnorm(first, weight('weight'), { eps: config.eps, dtype: block.precision })
    case 'linear':
      return linear(first)
    case 'add linear': {
      if (block.precision === 'f32') {
        using y = linear(second)
        return ops.add(first, y)
      }
      // Added to the residual stream as the product is made: neither rounded nor written in between.
      const dies = step.dies.some(({ value, shares }) => value === step.reads[0] && shares === undefined)
      const x = dies ? first : ops.copy(first)
      ops.gemm(x, second, weight('weight'), { transposeB: true, beta: 1 })
      return step.bias ? biased(x) : x
    }
    case 'attention':
      return (typeof positions === 'function' ? positions : within(ops, config, positions))(layer, first, second, third)
    case 'silu·':
      return ops.siluMul(first, second)
  }
}

/** The residual stream that enters the first block, f32 [tokens, d], for chunks of token ids. The embedding is open only meanwhile. */
export async function embed(ops: Ops, weights: Weights, chunks: readonly Int32Array[]): Promise<Tensor[]> {
  const name = `${weights.checkpoint.config.architecture.embed}.weight`
  using opened = await Opened.open(ops, weights, [name])
  return chunks.map(ids => {
    using rows = ops.tensor(ids, [ids.length])
    return ops.embed(opened.get(name), rows)
  })
}

/** The final norm and the head, opened: residual stream f32 [t, d] → logits f32 [t, vocab], in either precision. */
export class Head implements Disposable {
  private constructor(
    private readonly ops: Ops,
    private readonly config: ModelConfig,
    private readonly opened: Opened,
    private readonly matrix: Tensor,
    private readonly precision: Precision,
  ) {}

  /** embedding: open; a tied head is its matrix, which stays the caller's, and any other is held in what it is. */
  static async open(ops: Ops, weights: Weights, precision: Precision = 'f32', embedding?: Opened): Promise<Head> {
    const { config } = weights.checkpoint
    const name = Head.head(config)
    const shared = config.tied ? embedding : undefined
    const opened = await Opened.open(ops, weights, [Head.norm(config), ...(shared ? [] : [name])], embedding?.precision ?? precision)
    return new Head(ops, config, opened, (shared ?? opened).get(name), precision)
  }

  /** Bytes of norm and head. */
  get bytes(): number {
    return this.opened.get(Head.norm(this.config)).bytes + this.matrix.bytes
  }

  normed(x: Tensor): Tensor {
    return this.ops.rmsnorm(x, this.opened.get(Head.norm(this.config)), { eps: this.config.eps, dtype: this.precision })
  }

  logits(x: Tensor): Tensor {
    using normed = this.normed(x)
    return this.ops.matmul(normed, this.matrix, { transposeB: true, dtype: 'f32' })
  }

  [Symbol.dispose](): void {
    this.opened[Symbol.dispose]()
  }

  private static norm = ({ architecture }: ModelConfig): string => `${architecture.norm}.weight`
  private static head = ({ architecture, tied }: ModelConfig): string => `${headName(architecture, tied)}.weight`
}
