/**
 * What bits cost on the texts of published tables: perplexity before and after, and the spread of the KL divergence, by
 * protocol and context. The model is quantized once for each number of bits (graphs/qtip-2bit-fast.json), and measured from
 * its folder (graphs/evaluate.json).
 *
 *   --model DIR --calibration FILE        default: the bundled model and its text
 *   --wikitext2 FILE --c4 FILE --ptb FILE as published tables are made; Hugging Face's rows as .jsonl, or the joined text
 *   --text FILE                           its last 64 windows
 *   --lengths 128,256 --bits 2,3,4 --device cpu
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Figures, Options, Row } from './table.js'

interface Result {
  readonly bitsPerWeight: number
  readonly perplexity: { readonly original: number; readonly quantized: number }
  readonly kl: number
  readonly klPercentiles: Readonly<Record<50 | 90 | 99, number>>
  readonly top1Agreement: number
  readonly predictions: number
}

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url))

function runGraph(graph: string, out: string, device: string, inputs: Readonly<Record<string, string | undefined>>): Result {
  const sets = Object.entries(inputs).flatMap(([name, value]) => (value === undefined ? [] : ['--set', `${name}=${value}`]))
  const args = [path('dist/pipeline/cli.js'), 'run', path(`graphs/${graph}.json`), '--out', out, '--device', device, ...sets]
  const { status } = spawnSync(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) throw new Error(`pipe run graphs/${graph}.json ended with ${status}`)
  return JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
}

export function run(o: Options): Figures {
  const { model = path('fixtures/tiny-llama'), calibration = path('fixtures/tiny-llama/calibration.jsonl'), device = 'cpu' } = o
  const asked = (['wikitext2', 'c4', 'ptb'] as const).flatMap(protocol => (o[protocol] ? [[protocol, o[protocol]] as const] : []))
  const last = o.text ?? (asked.length === 0 ? path('fixtures/tiny-llama/test.jsonl') : undefined)
  const texts = [...asked, ...(last === undefined ? [] : [['end', last] as const])]
  const folder = mkdtempSync(join(tmpdir(), 'pipe-perplexity-'))
  try {
    const rows: Row[] = []
    for (const K of (o.bits ?? '2,3,4').split(',')) {
      const out = join(folder, K)
      runGraph('qtip-2bit-fast', out, device, { model, text: calibration, 'round.codebook.K': K, 'evaluate.sequences': '1' })
      for (const [protocol, text] of texts) {
        for (const length of (o.lengths ?? '256').split(',')) {
          const measured = runGraph('evaluate', join(folder, 'measured'), device, {
            ...{ model: join(out, 'model'), 'checkpoint.original': model, text },
            ...{ 'evaluate.protocol': protocol, 'evaluate.length': length },
          })
          rows.push({
            text: protocol === 'end' ? basename(text) : protocol,
            context: Number(length),
            predictions: measured.predictions,
            'bits a weight': measured.bitsPerWeight,
            'perplexity before': measured.perplexity.original,
            'perplexity after': measured.perplexity.quantized,
            KL: measured.kl,
            'KL 50 %': measured.klPercentiles[50],
            'KL 90 %': measured.klPercentiles[90],
            'KL 99 %': measured.klPercentiles[99],
            'same token %': 100 * measured.top1Agreement,
          })
        }
      }
    }
    return { model: basename(model), rows }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
