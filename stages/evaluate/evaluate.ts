/**
 * evaluate: what quantization cost. Perplexity of the original and of the quantized model on text that calibration did
 * not see (where one file is too short for both, a note says how much it saw), and the KL divergence between their
 * predictions: mean, percentiles, and how often both find the same token the most likely. Of a checkpoint that is compared
 * with none, its perplexity. Of small models, tokens a second as well.
 *
 * The quantized model is read back from disk and decoded from its packed codes, so that what is measured is what was
 * written. Protocol of GPTQ, QuIP# and QTIP: documents concatenated, cut into windows of `length` tokens, every token
 * of a window but its first predicted. QTIP (arXiv:2406.11235) §4.
 * Differs from the paper, unless `protocol` names one of its: the last windows of the text, so that one file can serve
 * calibration (its first) as well.
 */
import { resolve } from 'node:path'
import { Type } from '@sinclair/typebox'
import { defineStage, each, file, PipeError } from '../../pipeline/define.js'
import { checkpoint, metrics } from '../../schemas/tables/checkpoint.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { precisionOf, precisionParameter } from '../model/precision.js'
import { openWeights, type Weights } from '../model/quantized.js'
import { blockBytes, decodingOperations, mostOfLayer, sizesOf } from '../model/sizes.js'
import { formParameter } from '../model/streams.js'
import { type Cut, modelWindows, protocols } from '../model/text.js'
import { lengthFor, textMistakes, usualLength } from '../model/text-mistakes.js'
import { noteOverlap } from './overlap.js'
import { score } from './perplexity.js'
import { tokensPerSecond } from './speed.js'

/** Of wikitext2's test split, by tokenizers of today; ptb has fewer. */
const tokensOfTest = 3e5

const params = Type.Object(
  {
    text: file('Test text: .jsonl with one {"text": …} a line, or plain text; its last sequences are used'),
    sequences: Type.Integer({ default: 64, minimum: 1, description: "Sequences of test text, where protocol is 'end'" }),
    length: Type.Optional(Type.Integer({ minimum: 2, description: 'Tokens of a sequence; none: 2048, or what the model was made for' })),
    protocol: Type.Union([Type.Literal('end'), Type.Literal('wikitext2'), Type.Literal('c4'), Type.Literal('ptb')], {
      default: 'end',
      description:
        'end: the last sequences of the text; else as published tables were made, all windows: rows joined by two newlines (wikitext2), by spaces (ptb), the first 1100 by spaces and 256 windows (c4)',
    }),
    precision: precisionParameter,
    weights: formParameter,
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'evaluate',
  version: 4,
  about: 'Measure the quantized model against the original: perplexity, KL divergence and top-1 agreement on test text.',
  params,
  input: checkpoint,
  output: metrics,
  scope: 'stream',
  batch: () => 'all',
  check: (rows, { text, length, protocol }, where) =>
    textMistakes(rows, { text, ...(length === undefined ? {} : { length }), ...(protocol === 'end' ? {} : protocols[protocol]) }, where),
  estimate(rows, { sequences: last, length = usualLength, protocol, weights: form }) {
    const sequences = protocol === 'end' ? last : protocol === 'c4' ? 256 : Math.ceil(tokensOfTest / length)
    const sizes = sizesOf(rows)
    const { groups, weights, head, models } = sizes
    // Two models, and their predictions of every token; a block of weights, its chunk, residual streams and logits.
    const width = Math.min(...groups.map(({ n }) => n))
    const memory =
      blockBytes(sizes, form) +
      4 * 2048 * mostOfLayer(groups, ({ m, n }) => m + n) +
      Math.min(512 * 2 ** 20, 8 * sequences * length * width) +
      64 * 2 ** 20 +
      8 * head
    const tokens = sequences * length
    return { operations: models * tokens * (weights + head) + decodingOperations(sizes, tokens, form), memory, disk: 0 }
  },
  operator: ({ text, sequences, length: asked, protocol, precision, weights: form }, context) =>
    each(async row => {
      const original = row.source === undefined ? undefined : await openCheckpoint(row.source)
      const quantized = await openCheckpoint(resolve(context.out, row.path))
      const first = original ?? quantized
      const length = lengthFor(first.config, asked)
      const cut: Cut = protocol === 'end' ? { length, count: sequences, from: 'end' } : { length, ...protocols[protocol] }
      const windows = await modelWindows(first, text, cut, note => context.note(note))
      await noteOverlap(first, text, cut, windows.length, context)
      using before = original && (await openWeights(context.ops, original))
      using after = await openWeights(context.ops, quantized)
      const { nll, against, predictions } = await score(context.ops, before ? [before, after] : [after], windows, {
        precision: precisionOf(precision, context.ops, first),
        form,
        signal: context.signal,
        progress: (done, total) => context.progress(done, total, 'tokens'),
      })
      // What is wrong for making text alone must not cost what was measured.
      const speed = (weights: Weights): Promise<number | undefined> =>
        tokensPerSecond(context.ops, weights).catch((error: unknown) => {
          if (!(error instanceof PipeError)) throw error
          context.note(`tokens a second are not measured: ${error.message}`)
          return undefined
        })
      const perplexities = nll.map(sum => Math.exp(sum / predictions))
      return {
        ...row,
        ...(original && { perplexityOriginal: perplexities[0] }),
        perplexityQuantized: perplexities.at(-1) ?? Number.NaN,
        kl: against?.kl.mean,
        klMedian: against?.kl.median,
        kl90: against?.kl.p90,
        kl99: against?.kl.p99,
        agreement: against?.agreement,
        tokens: predictions,
        speedOriginal: before && (await speed(before)),
        speedQuantized: await speed(after),
      }
    }),
  report(row) {
    const { perplexityOriginal, perplexityQuantized, kl, klMedian, kl90, kl99, agreement, proxyErrorMean, proxyErrorMax } = row
    const { bytesOriginal, bytesQuantized, bitsPerWeight, tokens, speedOriginal, speedQuantized } = row
    if (perplexityOriginal === undefined || kl === undefined || bytesOriginal === undefined || agreement === undefined)
      return {
        result: {
          bitsPerWeight,
          bytes: bytesQuantized,
          perplexity: perplexityQuantized,
          predictions: tokens,
          tokensPerSecond: speedQuantized,
        },
        table: {
          columns: ['', 'value'],
          rows: [
            ['bits a weight', bitsPerWeight.toFixed(3)],
            ['size', megabytes(bytesQuantized)],
            ['perplexity', perplexityQuantized.toFixed(4)],
            ['predictions', String(tokens)],
            ...(speedQuantized === undefined ? [] : [['tokens a second', rounded(speedQuantized)]]),
          ],
        },
      }
    const byLinear = JSON.parse(row.proxyErrorByLinear ?? '{}') as Record<string, number>
    const [worst] = Object.entries(byLinear).sort(([, a], [, b]) => b - a)
    const percentiles = [klMedian, kl90, kl99].map(x => (x ?? Number.NaN).toFixed(5)).join('  ')
    const isRounded = proxyErrorMean !== undefined && proxyErrorMax !== undefined
    return {
      result: {
        bitsPerWeight,
        bytes: { original: bytesOriginal, quantized: bytesQuantized },
        perplexity: { original: perplexityOriginal, quantized: perplexityQuantized },
        kl,
        klPercentiles: { 50: klMedian, 90: kl90, 99: kl99 },
        top1Agreement: agreement,
        ...(isRounded && { proxyError: { mean: proxyErrorMean, max: proxyErrorMax, byLinear } }),
        predictions: tokens,
        ...(speedQuantized !== undefined && { tokensPerSecond: { original: speedOriginal, quantized: speedQuantized } }),
      },
      table: {
        columns: ['', 'original', 'quantized'],
        rows: [
          ['bits a weight', '', bitsPerWeight.toFixed(3)],
          ['size', megabytes(bytesOriginal), megabytes(bytesQuantized)],
          ['perplexity', perplexityOriginal.toFixed(4), perplexityQuantized.toFixed(4)],
          ['KL divergence, nats', '', kl.toFixed(5)],
          ['KL at 50, 90, 99 %', '', percentiles],
          ['same most likely token', '', `${(100 * agreement).toFixed(2)} %`],
          ...(isRounded
            ? [
                ['proxy error, mean', '', proxyErrorMean.toExponential(3)],
                ['proxy error, worst', '', `${proxyErrorMax.toExponential(3)}${worst === undefined ? '' : `  ${worst[0]}`}`],
              ]
            : []),
          ['predictions', '', String(tokens)],
          ...(speedQuantized === undefined ? [] : [['tokens a second', rounded(speedOriginal), rounded(speedQuantized)]]),
        ],
      },
    }
  },
})

const rounded = (x: number | undefined): string => (x === undefined ? '' : String(Number(x.toPrecision(3))))
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`
