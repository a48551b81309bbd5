/**
 * perplexity: how well models predict text, and how far apart they are, block by block.
 *
 *   NLL = −Σ log P(token | the tokens before it in its window)      perplexity = exp(NLL / predictions)
 *   KL  = KL(P_first ‖ P_second) at each of the same positions, nats: mean and percentiles
 *   agreement = share of positions where both find the same token the most likely
 *
 * One block's weights are open at a time. Windows go through in passes whose residual streams fit in memory, and
 * logits are made for a few tokens at a time, so that neither the text nor the vocabulary sets the memory needed; of a
 * prediction its divergence is kept, 8 bytes.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { overflown } from '../model/finite.js'
import { Head } from '../model/forward.js'
import type { Precision } from '../model/precision.js'
import type { Weights } from '../model/quantized.js'
import { type Chunk, logitsBytes, type RunAs, residualBytes, runModels, size, stack, tokensAtOnce } from '../model/streams.js'

export interface Score {
  /** Of each model: sum over predictions, nats. */
  readonly nll: readonly number[]
  /** Of the second model from the first; absent when there is one. */
  readonly against?: Against
  readonly predictions: number
}

/** How far the second model's predictions are from the first's. */
export interface Against {
  /** Nats. */
  readonly kl: Spread
  /** Share of predictions, 0 … 1, whose most likely token is the same; of equal logits the token of lowest id counts. */
  readonly agreement: number
}

/** Of values x₀ ≤ … ≤ x_N−1 the mean, and the percentiles: p at position p·(N−1), between neighbours linearly. */
export interface Spread {
  readonly mean: number
  readonly median: number
  readonly p90: number
  readonly p99: number
}

/** Raises nothing; all NaN for no values. Sorts in place. */
export function spread(values: Float64Array): Spread {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length
  values.sort()
  const at = (p: number): number => {
    const position = p * (values.length - 1)
    const [low, high] = [values[Math.floor(position)] ?? Number.NaN, values[Math.ceil(position)] ?? Number.NaN]
    return low + (position - Math.floor(position)) * (high - low)
  }
  return { mean, median: at(0.5), p90: at(0.9), p99: at(0.99) }
}

export interface ScoreOptions extends RunAs {
  readonly signal?: AbortSignal
  progress?(done: number, total: number): void
}

/** Scores one model, or two side by side, on windows of token ids; every token of a window but its first is predicted. Raises PipeError where one predicts NaN. */
export async function score(ops: Ops, models: readonly Weights[], windows: readonly Int32Array[], o: ScoreOptions = {}): Promise<Score> {
  const width = Math.max(...models.map(({ checkpoint }) => checkpoint.config.sizes.d))
  const chunks = stack(windows, Math.min(tokensAtOnce, residualBytes / (4 * width * models.length)))
  const total = windows.reduce((sum, window) => sum + window.length, 0)
  let [agreed, predictions, done] = [0, 0, 0]
  const kl: Float64Array[] = []
  const nll = models.map(() => 0)
  for (let from = 0; from < chunks.length; ) {
    let tokens = 0
    let to = from
    for (; to < chunks.length && (to === from || 4 * (tokens + size(chunks[to])) * width * models.length <= residualBytes); to++)
      tokens += size(chunks[to])
    const pass = chunks.slice(from, to)
    const streams = await runModels(ops, models, pass, {
      precision: o.precision,
      form: o.form,
      activations: o.activations,
      signal: o.signal,
      progress: share => o.progress?.(done + Math.floor(share * tokens), total),
    })
    const result = await scorePass(ops, models, pass, streams, o.precision)
    for (const [i, value] of result.nll.entries()) {
      if (!Number.isFinite(value)) throw overflown(models[i]?.checkpoint.path ?? '')
      nll[i] = (nll[i] ?? 0) + value
    }
    kl.push(...result.kl)
    agreed += result.agreed
    predictions += result.predictions
    done += tokens
    from = to
  }
  o.progress?.(total, total)
  if (models.length < 2) return { nll, predictions }
  const divergences = new Float64Array(predictions)
  let at = 0
  for (const part of kl) {
    divergences.set(part, at)
    at += part.length
  }
  return { nll, against: { kl: spread(divergences), agreement: agreed / predictions }, predictions }
}

async function scorePass(
  ops: Ops,
  models: readonly Weights[],
  chunks: readonly Chunk[],
  streams: readonly Tensor[][],
  precision?: Precision,
): Promise<{ nll: readonly number[]; kl: readonly Float64Array[]; agreed: number; predictions: number }> {
  const heads: Head[] = []
  const nll = models.map(() => 0)
  const kl: Float64Array[] = []
  let [agreed, predictions] = [0, 0]
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
            using first = ops.argmax(p)
            using second = ops.argmax(q)
            const [a, b] = [await integers(first), await integers(second)]
            kl.push((await floats(divergence)).filter((_, t) => (part[t] ?? -1) >= 0))
            agreed += part.reduce((sum, target, t) => sum + (target >= 0 && a[t] === b[t] ? 1 : 0), 0)
          }
        } finally {
          for (const tensor of logits) tensor[Symbol.dispose]()
        }
      }
    }
    return { nll, kl, agreed, predictions }
  } finally {
    for (const head of heads) head[Symbol.dispose]()
    for (const x of streams.flat()) x[Symbol.dispose]()
  }
}

const floats = async (x: Tensor): Promise<Float64Array> => Float64Array.from(new Float32Array((await x.read()).slice().buffer))
const integers = async (x: Tensor): Promise<Int32Array> => new Int32Array((await x.read()).slice().buffer)
