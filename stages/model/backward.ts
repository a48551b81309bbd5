/**
 * backward: one block forward with a tape of what the way back needs, and the way back. Both walk the architecture's steps,
 * so a new model of a known kind trains without a line here. What is cheap to make again is not kept: attention keeps its
 * queries, keys and values, and makes the probabilities a second time.
 *
 * Gradients are named as values are: going backward, a name means the last definition not yet passed.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { headName, type Step } from './architecture.js'
import type { ModelConfig } from './config.js'
import type { Positions } from './attention.js'
import type { Precision } from './precision.js'
import type { Parameter, TrainableBlock, TrainableLinear } from './trainable.js'

/** dOut f32, the gradient by what a step made → the gradients by what it read, in that order. Takes over dOut. */
type Back = (dOut: Tensor) => readonly Tensor[]

interface Taped {
  readonly step: Step
  readonly back: Back
  /** Tensors that no step before this one reads. */
  readonly frees: readonly Tensor[]
}

/** What a forward pass leaves for the way back. Disposing it, instead of going back, lets go of all it holds. */
export class Tape implements Disposable {
  readonly #records: Taped[] = []
  readonly #held = new Set<Tensor>()

  /** Keeps these tensors until the way back has passed this step. */
  push(step: Step, holds: readonly Tensor[], back: Back): void {
    const frees = [...new Set(holds)].filter(tensor => !this.#held.has(tensor))
    for (const tensor of frees) this.#held.add(tensor)
    this.#records.push({ step, back, frees })
  }

  holds(tensor: Tensor): boolean {
    return this.#held.has(tensor)
  }

  /** The last step not yet passed; undefined at the end. */
  pop(): { step: Step; back: Back; free: () => void } | undefined {
    const record = this.#records.pop()
    if (record === undefined) return undefined
    const free = () => {
      for (const tensor of record.frees) {
        this.#held.delete(tensor)
        tensor[Symbol.dispose]()
      }
    }
    return { step: record.step, back: record.back, free }
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#held) tensor[Symbol.dispose]()
    this.#held.clear()
    this.#records.length = 0
  }
}

/**
 * One block, as forwardBlock: takes over x f32 [sequences·length, d] that enters, gives the one that leaves, and a tape
 * that is to be disposed or given to backwardBlock. Positions and block must live as long as the tape. precision: of products
 * and attention, there and back; x and what leaves are f32.
 */
export function forwardWithTape(
  ops: Ops,
  config: ModelConfig,
  layer: number,
  block: TrainableBlock,
  x: Tensor,
  positions: Positions,
  precision: Precision = 'f32',
): { out: Tensor; tape: Tape } {
  return walk(ops, config.steps, config, block, x, precision, { ...positions, window: config.windows[layer] })
}

/** The final norm and the head, as a block of two steps: takes over the residual stream f32 [t, d], gives logits f32 [t, vocab]. */
export function forwardHeadWithTape(
  ops: Ops,
  config: ModelConfig,
  head: TrainableBlock,
  x: Tensor,
  precision: Precision = 'f32',
): { out: Tensor; tape: Tape } {
  const { architecture, tied } = config
  const steps: Step[] = [
    { op: 'rmsnorm', out: 'a', reads: ['x'], name: architecture.norm, bias: false, dies: [{ value: 'x' }] },
    { op: 'linear', out: 'x', reads: ['a'], name: headName(architecture, tied), bias: false, dies: [{ value: 'a' }] },
  ]
  return walk(ops, steps, config, head, x, precision, undefined)
}

/** What attention must know besides its inputs. */
type Reach = Positions & { readonly window: number | undefined }

function walk(
  ops: Ops,
  steps: readonly Step[],
  config: ModelConfig,
  block: TrainableBlock,
  x: Tensor,
  precision: Precision,
  reach: Reach | undefined,
): { out: Tensor; tape: Tape } {
  const tape = new Tape()
  const values = new Map<string, Tensor>([['x', x]])
  const letGo = (name: string) => {
    const value = values.get(name)
    values.delete(name)
    if (value !== undefined && !tape.holds(value)) value[Symbol.dispose]()
  }
  for (const step of steps) {
    const inputs = step.reads.map(name => {
      const value = values.get(name)
      if (value === undefined) throw new Error(`step ${step.out}: "${name}" is gone`)
      return value
    })
    const { out, holds, back } = runStep(ops, config, block, step, inputs, precision, reach)
    tape.push(step, holds, back)
    for (const { value } of step.dies) letGo(value)
    values.set(step.out, out)
  }
  const out = values.get('x')
  if (out === undefined) throw new Error('a block must make x')
  return { out, tape }
}

/** dOut f32, the gradient by what the block (or the head) gave, → the gradient by x. Adds the parameters' gradients; disposes dOut and the tape. */
export function backwardBlock(ops: Ops, tape: Tape, dOut: Tensor): Tensor {
  using _ = tape
  const gradients = new Map<string, Tensor>([['x', dOut]])
  for (let at = tape.pop(); at !== undefined; at = tape.pop()) {
    const { step, back, free } = at
    const dStep = gradients.get(step.out)
    gradients.delete(step.out)
    if (dStep === undefined) throw new Error(`step ${step.out}: nothing reads what it makes`)
    const dInputs = back(dStep)
    for (const [i, name] of step.reads.entries()) {
      const [before, added] = [gradients.get(name), dInputs[i]]
      if (added === undefined) throw new Error(`step ${step.out}: no gradient by "${name}"`)
      gradients.set(name, before === undefined ? added : sum(ops, before, added))
    }
    free()
  }
  const dx = gradients.get('x')
  if (dx === undefined) throw new Error('a block must read x')
  return dx
}

/** Takes over both. */
function sum(ops: Ops, a: Tensor, b: Tensor): Tensor {
  using first = a
  using second = b
  return ops.add(first, second)
}

function runStep(
  ops: Ops,
  config: ModelConfig,
  block: TrainableBlock,
  step: Step,
  inputs: readonly Tensor[],
  precision: Precision,
  reach: Reach | undefined,
): { out: Tensor; holds: readonly Tensor[]; back: Back } {
  const [first, second, third] = inputs as [Tensor, Tensor, Tensor]
  switch (step.op) {
    case 'rmsnorm':
      return rmsnorm(ops, config, block.norms.get(step.name ?? ''), step, first)
    case 'linear': {
      const { y, holds, back } = linear(linearOf(block, step), first, precision)
      return {
        out: y,
        holds,
        back: dOut => {
          using dy = dOut
          return [back(dy)]
        },
      }
    }
    case 'add linear': {
      const { y, holds, back } = linear(linearOf(block, step), second, precision)
      using product = y
      return { out: ops.add(first, product), holds, back: dOut => [dOut, back(dOut)] }
    }
    case 'attention':
      if (reach === undefined) throw new Error('attention without positions')
      return attention(ops, config, reach, precision, [first, second, third])
    case 'silu·':
      return {
        out: ops.siluMul(first, second),
        holds: [first, second],
        back: dOut => {
          using dy = dOut
          const { dGate, dUp } = ops.siluMulBackward(first, second, dy)
          return [dGate, dUp]
        },
      }
  }
}

function linearOf(block: TrainableBlock, step: Step): TrainableLinear {
  const found = block.linears.get(step.name ?? '')
  if (found === undefined) throw new Error(`the block lacks the linear "${step.name}"`)
  return found
}

/** y of a linear, and the way back to its input, which leaves dy to the caller. */
function linear(
  through: TrainableLinear,
  x: Tensor,
  precision: Precision,
): { y: Tensor; holds: readonly Tensor[]; back: (dy: Tensor) => Tensor } {
  const { y, kept } = through.forward(x, precision)
  return { y, holds: [x, ...kept], back: dy => through.backward(dy, x, kept, precision) }
}

function rmsnorm(ops: Ops, { eps }: ModelConfig, weight: Parameter | undefined, step: Step, x: Tensor) {
  if (weight === undefined) throw new Error(`the block lacks the norm "${step.name}"`)
  return {
    out: ops.rmsnorm(x, weight.value, { eps }),
    holds: [x],
    back: (dOut: Tensor) => {
      using dy = dOut
      return [ops.rmsnormBackward(x, weight.value, dy, weight.gradient, { eps })]
    },
  }
}

/** Queries and keys turned, and attention; with bf16 they and the values are rounded, on a GPU also the probabilities. */
function attention(
  ops: Ops,
  { sizes }: ModelConfig,
  reach: Reach,
  precision: Precision,
  [first, second, third]: readonly [Tensor, Tensor, Tensor],
) {
  const { cos, sin, length, window } = reach
  const { h: heads, g: kvHeads, e } = sizes
  const shape = { heads, kvHeads, length, window, scale: 1 / Math.sqrt(e) }
  /** Takes over x. */
  const as = (x: Tensor, dtype: Precision): Tensor => {
    if (x.dtype === dtype) return x
    using other = x
    return ops.cast(other, dtype)
  }
  const q = as(ops.rope(first, cos, sin, undefined, { heads }), precision)
  const k = as(ops.rope(second, cos, sin, undefined, { heads: kvHeads }), precision)
  const v = precision === 'f32' ? third : ops.cast(third, precision)
  return {
    out: as(ops.attention(q, k, v, shape), 'f32'),
    holds: [q, k, v],
    back: (dOut: Tensor) => {
      using dy = as(dOut, precision)
      const { dq, dk, dv } = ops.attentionBackward(q, k, v, dy, shape)
      using turnedQ = dq
      using turnedK = dk
      using other = ops.scale(sin, { factor: -1 }) // a rotation's transpose turns the other way
      return [ops.rope(turnedQ, cos, other, undefined, { heads }), ops.rope(turnedK, cos, other, undefined, { heads: kvHeads }), dv]
    },
  }
}
