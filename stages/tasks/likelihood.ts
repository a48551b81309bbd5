/**
 * likelihood: log P(continuation | context) = Σ_t log P(token_t | tokens before it), nats, and whether each token of the
 * continuation was the most likely one, as greedy decoding would have chosen.
 *
 * Context and continuation are tokenized together, and cut where the context's own tokens end; spaces at the context's
 * end belong to the continuation; no begin-of-sequence token is added (lm-evaluation-harness 0.4.3, its default). What
 * is longer than the model's positions loses tokens on the left.
 *
 * Requests go longest first, padded on the right to the longest of a chunk: attention is causal, so that what is asked
 * does not see the padding.
 */
import type { Tokenizer } from 'tokenizers'
import type { Ops } from '../../native/ops.js'
import { PipeError } from '../../pipeline/define.js'
import { overflown } from '../model/finite.js'
import { Head } from '../model/forward.js'
import type { Weights } from '../model/quantized.js'
import { logitsBytes, type RunAs, residualBytes, runModels, tokensAtOnce } from '../model/streams.js'
import { tokensOf } from '../model/text.js'
import { type Question, withoutEnd } from './formulation.js'

export interface Request {
  readonly tokens: Int32Array
  /** How many of the last of them are the continuation. */
  readonly asked: number
  /** Tokens lost on the left. */
  readonly lost: number
}

export interface Answer {
  /** Nats. */
  readonly logLikelihood: number
  readonly greedy: boolean
}

/** Raises PipeError where a question has no context, or a continuation that no context fits before. */
export async function toRequests(tokenizer: Tokenizer, questions: readonly Question[], positions: number): Promise<Request[]> {
  const contexts = await tokensOf(
    tokenizer,
    questions.map(({ context }) => withoutEnd(context)),
    false,
  )
  const whole = await tokensOf(
    tokenizer,
    questions.map(({ context, continuation }) => context + continuation),
    false,
  )
  return questions.map(({ context, continuation }, i) => {
    const tokens = whole[i] ?? []
    const before = contexts[i]?.length ?? 0
    const asked = tokens.length - before
    const fail = (message: string): never => {
      throw new PipeError('input', { where: `"${(context + continuation).slice(0, 80)}…"`, message })
    }
    if (before === 0) fail('the context of an item is empty.')
    if (asked < 1) fail('the continuation of an item has no tokens.')
    if (asked > positions) fail(`the continuation of an item has ${asked} tokens, and the model was made for ${positions} positions.`)
    // The last token is asked and never read, so one more than the positions fits.
    const kept = Math.min(tokens.length, positions + 1)
    return { tokens: Int32Array.from(tokens.slice(-kept)), asked, lost: tokens.length - kept }
  })
}

/** Answers in the order of the requests. Raises PipeError where the model predicts NaN. */
export async function answer(
  ops: Ops,
  weights: Weights,
  requests: readonly Request[],
  o: RunAs & { signal?: AbortSignal; progress?(share: number): void } = {},
): Promise<Answer[]> {
  const { d, vocab } = weights.checkpoint.config.sizes
  const order = requests.map((_, i) => i).sort((a, b) => read(requests[b]) - read(requests[a]) || a - b)
  const chunks: number[][] = []
  for (const i of order) {
    const last = chunks.at(-1)
    if (last !== undefined && (last.length + 1) * read(requests[last[0] ?? 0]) <= tokensAtOnce) last.push(i)
    else chunks.push([i])
  }
  const answers: Answer[] = new Array(requests.length)
  const width = (chunk: readonly number[]): number => read(requests[chunk[0] ?? 0])
  for (let from = 0; from < chunks.length; ) {
    let to = from
    for (let bytes = 0; to < chunks.length; to++) {
      bytes += 4 * d * width(chunks[to] ?? []) * (chunks[to]?.length ?? 0)
      if (to > from && bytes > residualBytes) break
    }
    const pass = chunks.slice(from, to)
    const padded = pass.map(chunk =>
      chunk.map(i => {
        const window = new Int32Array(width(chunk))
        window.set(requests[i]?.tokens.subarray(0, -1) ?? [])
        return window
      }),
    )
    const [first, share] = [from, (to - from) / chunks.length]
    const streams = await runModels(ops, [weights], padded, {
      precision: o.precision,
      form: o.form,
      activations: o.activations,
      signal: o.signal,
      progress: done => o.progress?.(first / chunks.length + done * share),
    })
    try {
      using head = await Head.open(ops, weights, o.precision)
      for (const [c, chunk] of pass.entries()) {
        const rows = chunk.flatMap((i, s) => {
          const { tokens, asked } = requests[i] as Request
          const end = s * width(chunk) + tokens.length - 1
          return Array.from({ length: asked }, (_, t) => end - asked + t)
        })
        const targets = chunk.flatMap(i => [...(requests[i] as Request).tokens.subarray(-(requests[i] as Request).asked)])
        const loss = new Float32Array(rows.length)
        const best = new Int32Array(rows.length)
        const step = Math.max(1, Math.floor(logitsBytes / (4 * vocab)))
        for (let at = 0; at < rows.length; at += step) {
          const count = Math.min(step, rows.length - at)
          using where = ops.tensor(Int32Array.from(rows.slice(at, at + count)), [count])
          using wanted = ops.tensor(Int32Array.from(targets.slice(at, at + count)), [count])
          using x = ops.embed(streams[0]?.[c] ?? where, where) // picks rows
          using logits = head.logits(x)
          using losses = ops.crossEntropy(logits, wanted)
          using most = ops.argmax(logits)
          loss.set(new Float32Array((await losses.read()).slice().buffer), at)
          best.set(new Int32Array((await most.read()).slice().buffer), at)
        }
        let row = 0
        for (const i of chunk) {
          let [logLikelihood, greedy] = [0, true]
          for (const end = row + (requests[i]?.asked ?? 0); row < end; row++) {
            logLikelihood -= loss[row] ?? Number.NaN
            greedy &&= best[row] === targets[row]
          }
          if (!Number.isFinite(logLikelihood)) throw overflown(weights.checkpoint.path)
          answers[i] = { logLikelihood, greedy }
        }
      }
    } finally {
      for (const x of streams.flat()) x[Symbol.dispose]()
    }
    from = to
  }
  return answers
}

/** Tokens that the model reads of a request. */
const read = (request: Request | undefined): number => (request?.tokens.length ?? 1) - 1
