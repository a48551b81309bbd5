/**
 * calibrate: run text through the model and give, for each linear, what it reads.
 *
 *   x [tokens, n]   f32 or bf16: inputs of the linears named `shares` in block `layer`; E[x xᵀ] is what rounding needs to know
 *
 * The model is the original one throughout: no block sees quantized weights, so layers are independent of each other.
 * Only the residual stream entering each block is kept; it is also what a killed run goes on from. While a block runs, the
 * weights of the next are read and uploaded, where there is room for them.
 *
 * With `gradients` it also gives, for each linear, how much the end loss depends on what it gives for each token (gradients.ts):
 * a row of its own for every linear then, x with s beside it.
 *
 * QuIP# (arXiv:2402.04396) §F.2; QTIP (arXiv:2406.11235) §4: Hessians of the original model over calibration sequences.
 */
import { type Static, Type } from '@sinclair/typebox'
import { toArray } from 'rxjs'
import type { Ops } from '../../native/ops.js'
import { bytesPerElement, elements, type Tensor } from '../../native/tensor.js'
import { type Context, defineStage, file, type NewRow, type Row, spread } from '../../pipeline/define.js'
import { activations } from '../../schemas/tables/activations.js'
import { linears } from '../../schemas/tables/linears.js'
import { batchOf, headInput } from '../model/batch.js'
import { type Checkpoint, openCheckpoint } from '../model/checkpoint.js'
import type { ModelConfig } from '../model/config.js'
import { embed, forwardBlock, Opened, openBlock, Rotary, type Tap } from '../model/forward.js'
import { type Precision, precisionOf, precisionParameter } from '../model/precision.js'
import { openWeights } from '../model/quantized.js'
import { most, mostOfLayer, savedStreams, sizesOf, sum } from '../model/sizes.js'
import { modelWindows } from '../model/text.js'
import { textMistakes } from '../model/text-mistakes.js'
import { Gradients, savedGradients, streamBytes } from './gradients.js'
import { Residual, small } from './residual.js'

const params = Type.Object(
  {
    text: file('Calibration text: .jsonl with one {"text": …} a line, or plain text; its first sequences are used'),
    sequences: Type.Integer({ default: 64, minimum: 1, description: 'Sequences of calibration text' }),
    length: Type.Integer({ default: 2048, minimum: 1, description: 'Tokens of a sequence' }),
    batch: Type.Integer({ default: 4, minimum: 1, description: 'Sequences that go through a block at a time; more take more memory' }),
    precision: precisionParameter,
    gradients: Type.Boolean({
      default: false,
      description:
        'Run the model backward too, for Hessians that weigh tokens by the squared gradient of the loss (hessian "weight": "gradient")',
    }),
  },
  { additionalProperties: false },
)

const input = linears.with('weight')

export default defineStage({
  name: 'calibrate',
  version: 1,
  about: 'Run text through the model, block by block, and give what each linear reads.',
  params,
  input,
  output: activations,
  scope: 'stream',
  check: (rows, params, where) => textMistakes(rows, params, where),
  estimate(rows, { sequences, length, batch, gradients }) {
    const sizes = sizesOf(rows)
    const { groups, weights, d } = sizes
    const tokens = sequences * length
    const layers = new Set(groups.map(({ layer }) => layer)).size
    // The streams entering a block, or all of them, as far as they are kept on the device.
    const kept = Math.max(Math.min(small, 4 * d * tokens), gradients ? Math.min(streamBytes, 4 * layers * d * tokens) : 0)
    const widest = most(groups, ({ m }) => m)
    // A block in f32, and what its linears read and give for a chunk of sequences.
    const memory =
      mostOfLayer(groups, ({ m, n }) => 4 * m * n) +
      4 * Math.min(batch, sequences) * length * (mostOfLayer(groups, ({ n }) => n) + 3 * widest)
    // With gradients: forward twice more, and back.
    return {
      operations: (gradients ? 4 : 1) * weights * tokens,
      memory: (gradients ? 3 : 1) * memory + kept,
      disk: 0,
      scratch: savedStreams(sizes, tokens) + (gradients ? savedGradients * tokens * sum(groups, ({ linears }) => linears) : 0),
      rows: rows.map(row => ({ ...row, tokens })),
    }
  },
  operator: (params, context) => source =>
    source.pipe(
      toArray(),
      spread(rows => calibrate(rows, params, context)),
    ),
})

type LinearRow = Row<typeof input>

async function* calibrate(
  rows: readonly LinearRow[],
  { text, sequences, length, batch, precision: asked, gradients: backward }: Static<typeof params>,
  context: Context,
): AsyncGenerator<NewRow<typeof activations>> {
  const { ops, signal } = context
  // A block is worth running for the linears whose results are not stored yet.
  const wanted = rows.filter(row => context.wanted(batchOf(row)))
  const groups = new Map<number, Map<string, LinearRow[]>>()
  for (const row of wanted.filter(row => row.role === 'linear')) {
    const group = groups.get(row.layer) ?? new Map<string, LinearRow[]>()
    group.set(row.shares, [...(group.get(row.shares) ?? []), row])
    groups.set(row.layer, group)
  }
  const layers = [...groups.keys()]
  const [first] = wanted
  if (first === undefined || layers.length === 0) {
    yield* wanted.map(passed)
    return
  }

  const checkpoint = await openCheckpoint(first.source)
  using weights = await openWeights(ops, checkpoint)
  const { config } = checkpoint
  const precision = precisionOf(asked, ops, checkpoint)
  const windows = await modelWindows(checkpoint, text, { length, count: sequences }, note => context.note(note))
  const chunks = Array.from({ length: Math.ceil(windows.length / batch) }, (_, i) => windows.slice(i * batch, (i + 1) * batch))
  using rotary = new Rotary(ops, config)
  const widest = chunkBytes(config, length * Math.max(...chunks.map(chunk => chunk.length)), precision)
  const gradients = backward
    ? await Gradients.open(context, weights, {
        chunks: chunks.map(joined),
        length,
        precision,
        rotary,
        chunkBytes: widest,
        head: rows.find(({ role, shares }) => role === 'linear' && shares === headInput)?.linear,
        blockBytes: Math.max(...layers.map(layer => blockBytes(checkpoint, layer, precision))),
      })
    : undefined
  using residual = await Residual.open(
    context,
    chunks.length,
    Math.min(...layers),
    Math.max(...layers),
    4 * config.sizes.d * length * windows.length,
  )
  if (residual.layer === 0) await residual.start(() => embed(ops, weights, chunks.map(joined)))
  const total = (Math.max(...layers) + 1 - residual.layer) * windows.length * length
  let done = 0
  const forward = (layer: number, block: Opened, x: Tensor, tap: Tap): Tensor =>
    layer < config.sizes.layers ? forwardBlock(ops, config, layer, block, x, rotary.of(length), tap) : enterHead(ops, config, block, x, tap)
  await using blocks = new BlocksAhead(async (layer, besides) => {
    using _slot = await context.room(blockBytes(checkpoint, layer, precision) + (besides ? widest : 0))
    return layer < config.sizes.layers ? openBlock(ops, weights, layer, precision) : Opened.open(ops, weights, [normOf(config)], precision)
  })

  for (const row of wanted) {
    for (let layer = residual.layer; row.role === 'linear' && layer <= row.layer; layer = residual.layer) {
      using block = await blocks.take(layer)
      for (const [i, chunk] of chunks.entries()) {
        signal.throwIfAborted()
        // With one chunk through, all that this block needs is there: what is free now can be had.
        if (i === 1 && layer < Math.max(...layers)) blocks.start(layer + 1)
        const inputs: { readers: LinearRow[]; x: Tensor }[] = []
        {
          using _slot = await context.room(chunkBytes(config, chunk.length * length, precision))
          const x = forward(layer, block, await residual.take(i), (shares, x) => {
            const readers = groups.get(layer)?.get(shares)
            if (readers === undefined) x[Symbol.dispose]()
            else inputs.push({ readers: gradients === undefined ? readers.slice(0, 1) : [...readers], x })
          })
          await residual.put(i, x)
        }
        try {
          for (let next = inputs[0]; next !== undefined; next = inputs[0]) {
            const [row, ...others] = next.readers as [LinearRow, ...LinearRow[]]
            const rowWeights = await gradients?.of(row.linear, i)
            const x = others.length > 0 ? ops.copy(next.x) : next.x
            if (others.length > 0) next.readers = others
            else inputs.shift()
            yield { ...row, role: 'activation', weight: undefined, x, tokens: chunk.length * length, rowWeights }
          }
        } finally {
          for (const { x } of inputs) x[Symbol.dispose]() // what nobody came for
        }
        done += chunk.length * length
        context.progress(done, total, 'tokens')
      }
      await residual.advance()
    }
    yield passed(row)
  }
}

const normOf = ({ architecture }: ModelConfig): string => `${architecture.norm}.weight`

/** What the head reads, told as a block tells what its linears read; gives the residual stream back. */
function enterHead(ops: Ops, config: ModelConfig, opened: Opened, x: Tensor, tap: Tap): Tensor {
  tap(headInput, ops.rmsnorm(x, opened.get(normOf(config)), { eps: config.eps, dtype: opened.precision }))
  return x
}

/** Opens a block; `besides`: while another one runs, for which room must be left. */
type OpenBlock = (layer: number, besides: boolean) => Promise<Opened>

/** Blocks of weights, the next one opened before it is asked for. */
class BlocksAhead implements AsyncDisposable {
  #next: { layer: number; opening: Promise<Opened | undefined> } | undefined

  constructor(private readonly open: OpenBlock) {}

  /** Begins to open a block. What goes wrong is told by `take`, which tries again: there may be room by then. */
  start(layer: number): void {
    this.#next = { layer, opening: this.open(layer, true).catch(() => undefined) }
  }

  /** The caller disposes it. */
  async take(layer: number): Promise<Opened> {
    const next = this.#next
    this.#next = undefined
    const opened = await next?.opening
    if (opened !== undefined && next?.layer === layer) return opened
    opened?.[Symbol.dispose]()
    return this.open(layer, false)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const opened = await this.#next?.opening
    opened?.[Symbol.dispose]()
  }
}

const passed = (row: LinearRow): NewRow<typeof activations> => ({ ...row, x: undefined, tokens: 0, rowWeights: undefined })

/** Bytes of a block's weights while they are opened, and the widest of them as it is stored. */
function blockBytes({ expected, tensors }: Checkpoint, layer: number, precision: Precision): number {
  const own = expected.filter(tensor => tensor.layer === layer)
  return (
    bytesPerElement[precision] * own.reduce((sum, { shape }) => sum + elements(shape), 0) +
    Math.max(0, ...own.map(({ name }) => tensors.get(name)?.bytes ?? 0))
  )
}

/** Bytes that come to life when `tokens` tokens go through a block: the inputs of its linears, and the widest values between. */
const chunkBytes = ({ sizes: { d, h, g, e, f } }: ModelConfig, tokens: number, precision: Precision): number =>
  4 * tokens * d + bytesPerElement[precision] * tokens * (3 * d + 3 * h * e + 4 * g * e + 3 * f)

function joined(chunk: readonly Int32Array[]): Int32Array {
  const all = new Int32Array(chunk.reduce((sum, ids) => sum + ids.length, 0))
  let at = 0
  for (const ids of chunk) {
    all.set(ids, at)
    at += ids.length
  }
  return all
}
