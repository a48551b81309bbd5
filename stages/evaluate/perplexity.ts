/**
 * perplexity: how well models predict text, and how far apart they are, block by block.
 *
 *   NLL = −Σ log P(token | the tokens before it in its window)      perplexity = exp(NLL / predictions)
 *   KL  = Σ KL(P_first ‖ P_second)                                  over the same positions, nats
 *
 * One block's weights are open at a time. Windows go through in passes whose residual streams fit in memory, and
 * logits are made for a few tokens at a time, so that neither the text nor the vocabulary sets the memory needed.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { embed, forwardBlock, Head, openBlock, Rotary } from '../model/forward.js'
import type { Precision } from '../model/precision.js'
import type { Weights } from '../model/quantized.js'

export interface Score {
  /** Of each model: sum over predictions, nats. */
  readonly nll: readonly number[]
  /** Of the second model from the first, summed over predictions; 0 when there is one. */
  readonly kl: number
  readonly predictions: number
}

export interface ScoreOptions {
  /** What both models run in; f32 when left out. */
  readonly precision?: Precision
  readonly signal?: AbortSignal
  progress?(done: number, total: number): void
}

/** Tokens that go through a block at a time: enough for the matrix products to run at full speed. */
const tokensAtOnce = 2048
const residualBytes = 512 * 2 ** 20
const logitsBytes = 64 * 2 ** 20

/** Scores one model, or two side by side, on windows of token ids; every token of a window but its first is predicted. */
export async function score(ops: Ops, models: readonly Weights[], windows: readonly Int32Array[], o: ScoreOptions = {}): Promise<Score> {
  const width = Math.max(...models.map(({ checkpoint }) => checkpoint.config.sizes.d))
  const chunks = stack(windows, Math.min(tokensAtOnce, residualBytes / (4 * width * models.length)))
  const total = windows.reduce((sum, window) => sum + window.length, 0)
  let [kl, predictions, done] = [0, 0, 0]
  const nll = models.map(() => 0)
  for (let from = 0; from < chunks.length; ) {
    let tokens = 0
    let to = from
    for (; to < chunks.length && (to === from || 4 * (tokens + size(chunks[to])) * width * models.length <= residualBytes); to++)
      tokens += size(chunks[to])
    const pass = chunks.slice(from, to)
    const streams = await runModels(ops, models, pass, {
      precision: o.precision,
      signal: o.signal,
      progress: share => o.progress?.(done + Math.floor(share * tokens), total),
    })
    const result = await scorePass(ops, models, pass, streams, o.precision)
    for (const [i, value] of result.nll.entries()) nll[i] = (nll[i] ?? 0) + value
    kl += result.kl
    predictions += result.predictions
    done += tokens
    from = to
  }
  o.progress?.(total, total)
  return { nll, kl, predictions }
}

/** Windows of one length that go through together. */
type Chunk = readonly Int32Array[]
const size = (chunk: Chunk | undefined): number => chunk?.reduce((sum, window) => sum + window.length, 0) ?? 0

function stack(windows: readonly Int32Array[], tokens: number): Chunk[] {
  const chunks: Int32Array[][] = []
  for (const window of windows) {
    const last = chunks[chunks.length - 1]
    if (last !== undefined && last[0]?.length === window.length && (last.length + 1) * window.length <= tokens) last.push(window)
    else chunks.push([window])
  }
  return chunks
}

/** The residual stream that leaves the last block: for each model, for each chunk. */
async function runModels(
  ops: Ops,
  models: readonly Weights[],
  chunks: readonly Chunk[],
  o: { precision?: Precision; signal?: AbortSignal; progress(share: number): void },
): Promise<Tensor[][]> {
  const streams: Tensor[][] = []
  try {
    for (const [m, weights] of models.entries()) {
      const { config } = weights.checkpoint
      using rotary = new Rotary(ops, config)
      const stream = await embed(
        ops,
        weights,
        chunks.map(chunk => Int32Array.from(chunk.flatMap(window => [...window]))),
      )
      streams.push(stream)
      for (let layer = 0; layer < config.sizes.layers; layer++) {
        using block = await openBlock(ops, weights, layer, o.precision)
        for (const [i, chunk] of chunks.entries()) {
          o.signal?.throwIfAborted()
          stream[i] = forwardBlock(ops, config, layer, block, stream[i] as Tensor, rotary.of(chunk[0]?.length ?? 0, chunk.length))
          await ops.finish() // so that a chunk's temporary tensors are gone before the next has any
          o.progress((m + (layer + (i + 1) / chunks.length) / config.sizes.layers) / models.length)
        }
      }
    }
    return streams
  } catch (error) {
    for (const x of streams.flat()) x[Symbol.dispose]()
    throw error
  }
}

async function scorePass(
  ops: Ops,
  models: readonly Weights[],
  chunks: readonly Chunk[],
  streams: readonly Tensor[][],
  precision?: Precision,
): Promise<Score> {
  const heads: Head[] = []
  const nll = models.map(() => 0)
  let [kl, predictions] = [0, 0]
  try {
    for (const weights of models) heads.push(await Head.open(ops, weights, precision))
    const vocab = Math.max(...models.map(({ checkpoint }) => checkpoint.config.sizes.vocab))
    const rows = Math.max(1, Math.floor(logitsBytes / (4 * vocab * models.length)))
    for (const [i, chunk] of chunks.entries()) {
      // The last token of a window has nothing to predict.
      const targets = Int32Array.from(chunk.flatMap(window => [...window.subarray(1), -1]))
      predictions += targets.filter(target => target >= 0).length
      for (let from = 0; from < targets.length; from += rows) {
        const part = targets.subarray(from, from + rows)
        const logits = heads.map((head, m) => {
          using x = ops.copy(streams[m]?.[i] as Tensor, { rows: [from, from + part.length] })
          return head.logits(x)
        })
        try {
          using target = ops.tensor(part, [part.length])
          for (const [m, tensor] of logits.entries()) {
            using loss = ops.crossEntropy(tensor, target)
            nll[m] = (nll[m] ?? 0) + (await floats(loss)).reduce((sum, x) => sum + x, 0)
          }
          const [p, q] = logits
          if (p !== undefined && q !== undefined) {
            using divergence = ops.klDivergence(p, q)
            kl += (await floats(divergence)).reduce((sum, x, t) => sum + ((part[t] ?? -1) >= 0 ? x : 0), 0)
          }
        } finally {
          for (const tensor of logits) tensor[Symbol.dispose]()
        }
      }
    }
    return { nll, kl, predictions }
  } finally {
    for (const head of heads) head[Symbol.dispose]()
    for (const x of streams.flat()) x[Symbol.dispose]()
  }
}

const floats = async (x: Tensor): Promise<Float64Array> => Float64Array.from(new Float32Array((await x.read()).slice().buffer))
