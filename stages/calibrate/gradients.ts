/**
 * gradients: how much the end loss depends on what each linear gives, token by token.
 *
 *   s[t, k] = mean over outputs j of group k of (∂ℓ/∂z_tj)²        z [t, m]: what the linear gives
 *   ℓ = Σ_t −log p(token t+1 | tokens … t)                          of the original model on its calibration text
 *
 * divided by its mean over the text, so that numbers stay in range; k runs over the finest groups of outputs.
 *
 * The model is run forward and back for a part of the text at a time: what enters each block is kept on the device, and
 * the block is run once more on the way back. So nothing as large as activations is saved; the s of a chunk are, when it is
 * through, and a killed run goes on with the chunks that lack them. They depend on the chunk alone.
 *
 * GuidedQuant (arXiv:2505.07004) section 3.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { TensorRef } from '../../native/tensor-ref.js'
import { bytesTensor, type Context, PipeError } from '../../pipeline/define.js'
import { blockName, headName } from '../model/architecture.js'
import { backwardBlock, forwardHeadWithTape, forwardWithTape } from '../model/backward.js'
import type { Checkpoint } from '../model/checkpoint.js'
import { embed, forwardBlock, Opened, openBlock, type Rotary } from '../model/forward.js'
import { finestGroups, mostGroups } from '../model/groups.js'
import type { Precision } from '../model/precision.js'
import type { Weights } from '../model/quantized.js'
import { DenseLinear, Parameter, type TrainableBlock, type TrainableLinear } from '../model/trainable.js'

/** Streams entering all blocks that are kept at a time: bytes on a CPU, and share of a GPU's memory. */
export const streamBytes = 512 * 2 ** 20
const streamShare = 0.25
/** Logits and their gradients are made for so many rows at a time. */
const logitsBytes = 256 * 2 ** 20

/** The most bytes of s of a token and a linear, as they are saved. */
export const savedGradients = 4 * mostGroups

const nameOf = (chunk: number): string => `gradients.${chunk}`

export interface Text {
  /** Token ids, sequences one after the other; a chunk goes through a block at a time. */
  readonly chunks: readonly Int32Array[]
  /** Tokens of a sequence. */
  readonly length: number
  readonly precision: Precision
  readonly rotary: Rotary
  /** Bytes that come to life when a chunk goes through a block, and of a block's weights. */
  readonly chunkBytes: number
  readonly blockBytes: number
  /** The head, where it is a linear to round. */
  readonly head?: string | undefined
}

type Saved = NonNullable<Awaited<ReturnType<Context['checkpoint']['load']>>>

export class Gradients {
  private constructor(
    private readonly saved: readonly Saved[],
    /** By linear: 1/mean of s over the text. */
    private readonly factors: ReadonlyMap<string, number>,
  ) {}

  /** Runs the model forward and back for the chunks that are not saved yet. Raises PipeError where no gradient can be had. */
  static async open(context: Context, weights: Weights, text: Text): Promise<Gradients> {
    if (text.length < 2)
      throw new PipeError('input', {
        where: 'calibrate',
        message: `Sequences of ${text.length} token predict nothing: there are no gradients.`,
        hint: 'Give "length" at least 2, or leave "gradients" out.',
      })
    const { checkpoint, ops } = context
    const { layers, d } = weights.checkpoint.config.sizes
    const saved: (Saved | undefined)[] = []
    for (const i of text.chunks.keys()) saved.push(await checkpoint.load(nameOf(i)))
    const missing = [...text.chunks.keys()].filter(i => saved[i] === undefined)
    const stream = 4 * layers * d * Math.max(...text.chunks.map(ids => ids.length))
    const { totalBytes = 0 } = ops.device.info()
    const most = ops.device.kind === 'cuda' ? streamShare * totalBytes : streamBytes
    const together = Math.max(1, Math.floor(most / stream))
    for (let from = 0; from < missing.length; from += together) {
      const part = missing.slice(from, from + together)
      const done = (passed: number) => context.progress(from + passed * part.length, missing.length, 'chunks', 'gradients')
      await runPart(context, weights, text, part, stream, done)
      for (const i of part) saved[i] = await checkpoint.load(nameOf(i))
    }
    return new Gradients(saved as Saved[], factorsOf(saved as Saved[], text, context))
  }

  /** s of a chunk, f32 [tokens, finest groups], on the host. */
  async of(linear: string, chunk: number): Promise<TensorRef> {
    const [s, factor] = [this.saved[chunk]?.tensors[linear], this.factors.get(linear)]
    if (s === undefined || factor === undefined) throw new Error(`${linear} has no gradients in chunk ${chunk}`)
    const values = new Float32Array((await s.read()).slice().buffer)
    const scaled = factor === 0 ? values.fill(1) : values.map(x => x * factor)
    return bytesTensor(new Uint8Array(scaled.buffer), 'f32', s.shape)
  }
}

/** 1/mean by linear; 0 where all gradients are 0, so that every token counts the same. */
function factorsOf(saved: readonly Saved[], { chunks }: Text, { note }: Context): Map<string, number> {
  const tokens = chunks.reduce((sum, ids) => sum + ids.length, 0)
  const sums = new Map<string, number>()
  for (const { value } of saved)
    for (const [linear, sum] of Object.entries(value as Record<string, number>)) sums.set(linear, (sums.get(linear) ?? 0) + sum)
  return new Map(
    [...sums].map(([linear, sum]) => {
      if (!Number.isFinite(sum))
        throw new PipeError('input', {
          where: `calibrate  ${linear}`,
          message: 'The gradient of the loss by what it gives is NaN or infinite.',
          hint: 'The weights of this layer or of one behind it are broken, or overflow: check the checkpoint.',
        })
      if (sum === 0) note(`calibrate ${linear}: the loss does not depend on it; all tokens count the same`)
      return [linear, sum === 0 ? 0 : tokens / sum]
    }),
  )
}

/** Chunks forward through the whole model and back; saves the s of each with their sums. */
async function runPart(
  context: Context,
  weights: Weights,
  text: Text,
  part: readonly number[],
  stream: number,
  progress: (share: number) => void,
): Promise<void> {
  const { ops, signal, checkpoint } = context
  const { config } = weights.checkpoint
  const { layers } = config.sizes
  const { precision, length, rotary } = text
  const idsOf = (i: number): Int32Array => text.chunks[i] as Int32Array
  const positions = rotary.of(length)
  // Back takes what forward does three times: the block again, and gradients by inputs as wide.
  const slot = await context.room(part.length * stream + text.blockBytes + 3 * text.chunkBytes)
  const entering = part.map((): Tensor[] => [])
  const found = part.map((): Record<string, Tensor> => ({}))
  const leaving: Tensor[] = []
  try {
    leaving.push(...(await embed(ops, weights, part.map(idsOf))))
    slot[Symbol.dispose]()
    for (let layer = 0; layer < layers; layer++) {
      using block = await openBlock(ops, weights, layer, precision)
      for (const at of part.keys()) {
        signal.throwIfAborted()
        const x = leaving[at] as Tensor
        entering[at]?.push(ops.copy(x))
        leaving[at] = forwardBlock(ops, config, layer, block, x, positions)
        await ops.finish()
      }
      progress((layer + 1) / (4 * layers))
    }
    {
      using head = await openHead(ops, weights, precision)
      for (const [at, i] of part.entries()) {
        using x = leaving[at] as Tensor
        const { dx, s } = lossGradient(ops, weights.checkpoint, head.block, x, idsOf(i), text)
        leaving[at] = dx
        if (s && text.head !== undefined && found[at]) found[at][text.head] = s
        await ops.finish()
      }
    }
    for (let layer = layers - 1; layer >= 0; layer--) {
      using opened = await openBlock(ops, weights, layer, precision)
      for (const at of part.keys()) {
        signal.throwIfAborted()
        using block = watchedBlock(ops, weights.checkpoint, layer, opened, (linear, dy) => {
          if (found[at]) found[at][linear] = meanSquares(ops, dy)
        })
        const x = entering[at]?.pop() as Tensor
        const { out, tape } = forwardWithTape(ops, config, layer, block, x, positions, precision)
        out[Symbol.dispose]()
        leaving[at] = backwardBlock(ops, tape, leaving[at] as Tensor)
        await ops.finish()
      }
      progress((layers + 3 * (layers - layer)) / (4 * layers))
    }
    for (const [at, i] of part.entries()) {
      const tensors = found[at] ?? {}
      const sums: Record<string, number> = {}
      for (const [linear, s] of Object.entries(tensors))
        sums[linear] = new Float32Array((await s.read()).slice().buffer).reduce((sum, x) => sum + x, 0) / (s.shape[1] ?? 1)
      await checkpoint.save(nameOf(i), sums, tensors)
    }
  } finally {
    slot[Symbol.dispose]()
    for (const x of [...leaving, ...entering.flat(), ...found.flatMap(tensors => Object.values(tensors))]) x[Symbol.dispose]()
  }
}

/** dy f32 [t, m] → the mean of its squares over each of the finest groups, f32 [t, groups]. */
function meanSquares(ops: Ops, dy: Tensor): Tensor {
  const [t = 0, m = 0] = dy.shape
  const groups = finestGroups(m)
  using rows = ops.reshape(dy, [t * groups, m / groups])
  using columns = ops.transpose(rows)
  using sums = ops.zeros('f32', [t * groups])
  ops.addColumnDots(sums, columns, columns)
  using means = ops.scale(sums, { factor: groups / m })
  return ops.reshape(means, [t, groups])
}

/** The gradient of ℓ by x f32 [t, d], which leaves the last block; and s of the head, where it is a linear to round. */
function lossGradient(
  ops: Ops,
  { config }: Checkpoint,
  head: TrainableBlock,
  x: Tensor,
  ids: Int32Array,
  { length, precision, head: rounded }: Text,
): { dx: Tensor; s?: Tensor } {
  const [t = 0, d = 0] = x.shape
  const rows = Math.max(1, Math.floor(logitsBytes / (4 * config.sizes.vocab)))
  const gradient = ops.zeros('f32', [t, d])
  const s = rounded === undefined ? undefined : ops.zeros('f32', [t, finestGroups(config.sizes.vocab)])
  for (let from = 0; from < t; from += rows) {
    const part: [number, number] = [from, Math.min(t, from + rows)]
    // The last token of a sequence has nothing to predict.
    const targets = Int32Array.from({ length: part[1] - from }, (_, i) => ((from + i + 1) % length === 0 ? -1 : (ids[from + i + 1] ?? -1)))
    using labels = ops.tensor(targets, [targets.length])
    const { out, tape } = forwardHeadWithTape(ops, config, head, ops.copy(x, { rows: part }), precision)
    using logits = out
    const { loss, gradient: dLogits } = ops.crossEntropyGradient(logits, labels)
    loss[Symbol.dispose]()
    if (s !== undefined) {
      using means = meanSquares(ops, dLogits)
      ops.paste(s, means, { row: from })
    }
    using dx = backwardBlock(ops, tape, dLogits)
    ops.paste(gradient, dx, { row: from })
  }
  return { dx: gradient, ...(s && { s }) }
}

/** A linear whose weights stay, and the gradient by what it gives is told. */
class Watched implements TrainableLinear {
  readonly parameters = new Map<string, Parameter>()

  constructor(
    private readonly linear: DenseLinear,
    private readonly told: (dy: Tensor) => void,
  ) {}

  forward(x: Tensor, precision?: Precision): { y: Tensor; kept: readonly Tensor[] } {
    return this.linear.forward(x, precision)
  }

  backward(dy: Tensor, x: Tensor, kept: readonly Tensor[], precision?: Precision): Tensor {
    this.told(dy)
    return this.linear.backward(dy, x, kept, precision)
  }

  [Symbol.dispose](): void {} // its weights are the opened block's
}

/** The block with weights that stay `opened`'s; `told` gets each linear's full name and f32 [t, m]. Disposing it lets go of its norms. */
function watchedBlock(
  ops: Ops,
  { config }: Checkpoint,
  layer: number,
  opened: Opened,
  told: (linear: string, dy: Tensor) => void,
): TrainableBlock & Disposable {
  const norms = new Map<string, Parameter>()
  const linears = new Map<string, TrainableLinear>()
  for (const { op, name, bias } of config.steps) {
    if (name === undefined) continue
    const full = `${blockName(config.architecture, layer)}.${name}`
    const weight = opened.get(`${full}.weight`)
    if (op === 'rmsnorm') norms.set(name, Parameter.of(ops, name, ops.copy(weight)))
    else linears.set(name, new Watched(new DenseLinear(ops, weight, bias ? opened.get(`${full}.bias`) : undefined), dy => told(full, dy)))
  }
  return {
    norms,
    linears,
    [Symbol.dispose]() {
      for (const norm of norms.values()) norm[Symbol.dispose]()
    },
  }
}

async function openHead(ops: Ops, weights: Weights, precision: Precision): Promise<{ block: TrainableBlock } & Disposable> {
  const { architecture, tied } = weights.checkpoint.config
  const [norm, head] = [architecture.norm, headName(architecture, tied)]
  const opened = await Opened.open(ops, weights, [`${norm}.weight`, `${head}.weight`], precision)
  const scales = Parameter.of(ops, norm, ops.copy(opened.get(`${norm}.weight`)))
  const linear = new Watched(new DenseLinear(ops, opened.get(`${head}.weight`)), () => {})
  return {
    block: { norms: new Map([[norm, scales]]), linears: new Map([[head, linear]]) },
    [Symbol.dispose]() {
      scales[Symbol.dispose]()
      opened[Symbol.dispose]()
    },
  }
}
