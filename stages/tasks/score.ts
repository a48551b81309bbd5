/**
 * score: items, asked and marked.
 *
 *   acc         share of items whose right choice has the largest log-likelihood (LAMBADA: whose last word greedy decoding finds)
 *   acc_norm    the same of log-likelihood / characters of the choice
 *   perplexity  exp(−mean log-likelihood of the last word), LAMBADA alone
 *   stderr      s/√N, s² = Σ(x − mean)²/(N − 1); of the perplexity by its derivative: perplexity · stderr of the mean
 *
 * As the lm-evaluation-harness 0.4.3, which finds the perplexity's standard error by bootstrap instead.
 */
import type { Ops } from '../../native/ops.js'
import type { Weights } from '../model/quantized.js'
import type { RunAs } from '../model/streams.js'
import { openTokenizer } from '../model/text.js'
import type { Item, TaskName } from './formulation.js'
import { type Answer, answer, toRequests } from './likelihood.js'

/** A number and its standard error. */
export type Measured = readonly [value: number, stderr: number]
/** As people read it; one item has no standard error: NaN, and null where it comes back from JSON. */
export const written = ([value, stderr]: readonly [number, number | null]): string =>
  (Number.isFinite(stderr) ? [value, stderr as number] : [value]).map(number).join(' ± ')
const number = (x: number): string => (Math.abs(x) < 1e5 ? x.toFixed(4) : x.toExponential(3))
export interface TaskScore {
  readonly items: number
  readonly acc: Measured
  readonly accNorm?: Measured
  readonly perplexity?: Measured
}

/** Items asked together: enough of them that opening the weights does not count, few enough that a killed run loses little. */
const together = 512
/** The harness takes 2048 for models that don't say. */
const usualPositions = 2048

/** Items that were asked together: of each the answers, and how many questions of them all were cut. */
export interface Part {
  readonly answers: readonly (readonly Answer[])[]
  readonly cut: number
}

export interface AskOptions extends RunAs {
  readonly signal?: AbortSignal
  /** What is known of a part already; undefined: ask. */
  known?(part: number): Promise<Part | undefined>
  done?(part: number, found: Part): Promise<void>
  note(text: string): void
  progress?(done: number, total: number): void
}

/** Of each item the answers to its questions. */
export async function ask(ops: Ops, weights: Weights, task: TaskName, items: readonly Item[], o: AskOptions): Promise<Answer[][]> {
  const { path, config } = weights.checkpoint
  const positions = config.positions ?? usualPositions
  const tokenizer = await openTokenizer(path, config.sizes.vocab)
  const answers: Answer[][] = []
  let cut = 0
  for (let from = 0; from < items.length; from += together) {
    const part = items.slice(from, from + together)
    let found = await o.known?.(from / together)
    if (found === undefined) {
      const requests = await toRequests(
        tokenizer,
        part.flatMap(({ questions }) => questions),
        positions,
      )
      const flat = await answer(ops, weights, requests, {
        precision: o.precision,
        form: o.form,
        activations: o.activations,
        signal: o.signal,
        progress: share => o.progress?.(from + Math.floor(share * part.length), items.length),
      })
      const left = flat.values()
      found = {
        answers: part.map(({ questions }) => questions.map(() => left.next().value as Answer)),
        cut: requests.filter(({ lost }) => lost > 0).length,
      }
      await o.done?.(from / together, found)
    }
    answers.push(...found.answers.map(one => [...one]))
    cut += found.cut
  }
  if (cut > 0) o.note(`${task}: ${cut} questions are longer than the model's ${positions} positions and lose tokens on the left.`)
  o.progress?.(items.length, items.length)
  return answers
}

export function mark(task: TaskName, items: readonly Item[], answers: readonly (readonly Answer[])[]): TaskScore {
  if (task === 'lambada') {
    const likelihoods = answers.map(([one]) => one?.logLikelihood ?? Number.NaN)
    const [mean, stderr] = measured(likelihoods)
    const perplexity = Math.exp(-mean)
    return {
      items: items.length,
      acc: measured(answers.map(([one]) => Number(one?.greedy))),
      perplexity: [perplexity, perplexity * stderr],
    }
  }
  const right = (divided: boolean): number[] =>
    items.map(({ gold, lengths }, i) => {
      const values = answers[i]?.map(({ logLikelihood }, c) => (divided ? logLikelihood / (lengths[c] ?? 1) : logLikelihood)) ?? []
      return Number(values.indexOf(Math.max(...values)) === gold)
    })
  const acc = measured(right(false))
  return task === 'winogrande' || task === 'boolq'
    ? { items: items.length, acc }
    : { items: items.length, acc, accNorm: measured(right(true)) }
}

/** The mean and its standard error, NaN for one value. */
export function measured(values: readonly number[]): Measured {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length
  const squares = values.reduce((sum, x) => sum + (x - mean) ** 2, 0)
  return [mean, Math.sqrt(squares / (values.length - 1) / values.length)]
}
