/**
 * evaluate: what quantization cost. Perplexity of the original and of the quantized model on text that calibration did
 * not see, and the KL divergence between their predictions: mean, percentiles, and how often both find the same token
 * the most likely.
 *
 * The quantized model is read back from disk and decoded from its packed codes, so that what is measured is what was
 * written. Protocol of GPTQ, QuIP# and QTIP: documents concatenated, cut into windows of `length` tokens, every token
 * of a window but its first predicted. QTIP (arXiv:2406.11235) §4.
 * Differs from the paper, unless `protocol` names one of its: the last windows of the text, so that one file can serve
 * calibration (its first) as well.
 */
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import { defineStage, each, file } from '../../pipeline/define.js'
import { checkpoint, metrics } from '../../schemas/tables/checkpoint.js'
import { openCheckpoint } from '../model/checkpoint.js'
import { precisionOf, precisionParameter } from '../model/precision.js'
import { openWeights } from '../model/quantized.js'
import { mostOfLayer, sizesOf } from '../model/sizes.js'
import { modelWindows, protocols } from '../model/text.js'
import { score } from './perplexity.js'

const params = Type.Object(
  {
    text: file('Test text: .jsonl with one {"text": …} a line, or plain text; its last sequences are used'),
    sequences: Type.Integer({ default: 64, minimum: 1, description: "Sequences of test text, where protocol is 'end'" }),
    length: Type.Integer({ default: 2048, minimum: 2, description: 'Tokens of a sequence' }),
    protocol: Type.Union([Type.Literal('end'), Type.Literal('wikitext2'), Type.Literal('c4'), Type.Literal('ptb')], {
      default: 'end',
      description:
        'end: the last sequences of the text; else as published tables were made, all windows: rows joined by two newlines (wikitext2), by spaces (ptb), the first 1100 by spaces and 256 windows (c4)',
    }),
    precision: precisionParameter,
  },
  { additionalProperties: false },
)

export default defineStage({
  name: 'evaluate',
  version: 2,
  about: 'Measure the quantized model against the original: perplexity, KL divergence and top-1 agreement on test text.',
  params,
  input: checkpoint,
  output: metrics,
  scope: 'stream',
  batch: () => 'all',
  estimate(rows, { sequences, length }) {
    const { groups, weights, head } = sizesOf(rows)
    // Two models, and their predictions of every token; a block of weights, its chunk, residual streams and logits.
    const width = Math.min(...groups.map(({ n }) => n))
    const memory =
      mostOfLayer(groups, ({ m, n }) => 4 * m * n) +
      4 * 2048 * mostOfLayer(groups, ({ m, n }) => m + n) +
      Math.min(512 * 2 ** 20, 8 * sequences * length * width) +
      64 * 2 ** 20 +
      8 * head
    return { operations: 2 * sequences * length * (weights + head), memory, disk: 0 }
  },
  operator: ({ text, sequences, length, protocol, precision }, context) =>
    each(async row => {
      const original = await openCheckpoint(row.source)
      const quantized = await openCheckpoint(join(context.out, row.path))
      const windows = await modelWindows(
        original,
        text,
        protocol === 'end' ? { length, count: sequences, from: 'end' } : { length, ...protocols[protocol] },
        note => context.note(note),
      )
      using first = await openWeights(context.ops, original)
      using second = await openWeights(context.ops, quantized)
      const { nll, against, predictions } = await score(context.ops, [first, second], windows, {
        precision: precisionOf(precision, context.ops, original),
        signal: context.signal,
        progress: (done, total) => context.progress(done, total, 'tokens'),
      })
      const perplexity = (i: number): number => Math.exp((nll[i] ?? Number.NaN) / predictions)
      if (against === undefined) throw new Error('two models were scored')
      const { kl, agreement } = against
      return {
        ...row,
        perplexityOriginal: perplexity(0),
        perplexityQuantized: perplexity(1),
        kl: kl.mean,
        klMedian: kl.median,
        kl90: kl.p90,
        kl99: kl.p99,
        agreement,
        tokens: predictions,
      }
    }),
  report(row) {
    const byLinear = JSON.parse(row.proxyErrorByLinear) as Record<string, number>
    const [worst] = Object.entries(byLinear).sort(([, a], [, b]) => b - a)
    const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`
    return {
      result: {
        bitsPerWeight: row.bitsPerWeight,
        bytes: { original: row.bytesOriginal, quantized: row.bytesQuantized },
        perplexity: { original: row.perplexityOriginal, quantized: row.perplexityQuantized },
        kl: row.kl,
        klPercentiles: { 50: row.klMedian, 90: row.kl90, 99: row.kl99 },
        top1Agreement: row.agreement,
        proxyError: { mean: row.proxyErrorMean, max: row.proxyErrorMax, byLinear },
      },
      table: {
        columns: ['', 'original', 'quantized'],
        rows: [
          ['bits a weight', '', row.bitsPerWeight.toFixed(3)],
          ['size', megabytes(row.bytesOriginal), megabytes(row.bytesQuantized)],
          ['perplexity', row.perplexityOriginal.toFixed(4), row.perplexityQuantized.toFixed(4)],
          ['KL divergence, nats', '', row.kl.toFixed(5)],
          ['KL at 50, 90, 99 %', '', [row.klMedian, row.kl90, row.kl99].map(x => x.toFixed(5)).join('  ')],
          ['same most likely token', '', `${(100 * row.agreement).toFixed(2)} %`],
          ['proxy error, mean', '', row.proxyErrorMean.toExponential(3)],
          ['proxy error, worst', '', `${row.proxyErrorMax.toExponential(3)}${worst === undefined ? '' : `  ${worst[0]}`}`],
          ['predictions', '', String(row.tokens)],
        ],
      },
    }
  },
})
