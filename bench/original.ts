/**
 * The published recipe in plain PyTorch (bench/original/original.py) beside this project: same model, same calibration tokens,
 * same table of the code, same text to measure on; several draws of the random signs on both sides. Without fine-tuning and
 * with it inside blocks, one epoch at the same rate of weights.
 *
 *   --seeds 2             draws
 *   --bits 2
 *   --device cuda:0       of ours; default: as pipe run chooses
 *   --python python3      one with torch, transformers, tokenizers and safetensors
 *
 * `npm run bench -- original` measures; `node dist/bench/original.js` writes the table into bench/README.md.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { root } from './commit.js'
import { type Figures, type Options, type Row, withTable } from './table.js'

const marks = ['<!-- original -->', '<!-- /original -->'] as const
const columns = { before: 'perplexity before', after: 'perplexity after', error: 'proxy error, mean', tuning: 'fine-tuning' } as const
/** Graphs of the recipe; what the other side is told besides. */
const recipes = [
  { tuning: 'none', graph: 'qtip-2bit-fast', told: ['--epochs', '0'] },
  { tuning: 'inside blocks', graph: 'qtip-2bit', told: ['--epochs', '1', '--rate', '3e-4', '--batch', '4', '--valid', '32'] },
] as const

interface Result {
  readonly seconds: number
  readonly perplexity: { readonly original: number; readonly quantized: number }
  readonly proxyError: { readonly mean: number }
}

interface Theirs extends Readonly<Record<string, unknown>> {
  readonly original: number
  readonly runs: readonly {
    readonly seed: number
    readonly perplexity: number
    readonly proxyErrorMean: number
    readonly seconds: number
  }[]
}

export function run({ seeds = '2', bits = '2', device, python = 'python3' }: Options): Figures {
  const model = join(root, 'fixtures/tiny-llama')
  const texts = { text: join(model, 'calibration.jsonl'), test: join(model, 'test.jsonl') }
  const out = mkdtempSync(join(tmpdir(), 'pipe-original-'))
  const rows: Row[] = []
  let machine: Readonly<Record<string, unknown>> = {}
  try {
    for (const { tuning, graph, told } of recipes) {
      for (let seed = 0; seed < Number(seeds); seed++)
        rows.push(ours(join(out, 'ours'), { graph, tuning, seed, bits, model, ...texts, device }))
      const file = join(out, 'theirs.json')
      const said = {
        model,
        quantized: join(out, 'ours/model'),
        ...texts,
        bits,
        seeds,
        sequences: '128',
        length: '256',
        measured: '64',
        out: file,
      }
      const words = Object.entries(said).flatMap(([name, value]) => [`--${name}`, value])
      spawn(python, [join(root, 'bench/original/original.py'), ...words, ...told])
      const { original, runs, about: _, bits: __, epochs: ___, rate: ____, ...where } = JSON.parse(readFileSync(file, 'utf8')) as Theirs
      machine = where
      for (const { seed, perplexity, proxyErrorMean, seconds } of runs)
        rows.push(rowOf('plain PyTorch', { bits, tuning, seed, before: original, after: perplexity, error: proxyErrorMean, seconds }))
    }
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
  return { model: 'fixtures/tiny-llama', ...machine, rows }
}

interface Job extends Readonly<Record<'graph' | 'tuning' | 'bits' | 'model' | 'text' | 'test', string>> {
  readonly seed: number
  readonly device?: string | undefined
}

function ours(out: string, { graph, tuning, seed, bits, device, ...inputs }: Job): Row {
  const file = join(tmpdir(), `pipe-original-${process.pid}.json`)
  const recipe = JSON.parse(readFileSync(join(root, `graphs/${graph}.json`), 'utf8')) as object
  writeFileSync(file, JSON.stringify({ ...recipe, seed }))
  try {
    const sets = [`round.codebook.K=${bits}`, ...Object.entries(inputs).map(([name, value]) => `${name}=${value}`)]
    const cli = fileURLToPath(new URL('../pipeline/cli.js', import.meta.url))
    const where = device === undefined ? [] : ['--device', device]
    spawn(process.execPath, [cli, 'run', file, '--out', out, ...where, ...sets.flatMap(each => ['--set', each])])
  } finally {
    rmSync(file, { force: true })
  }
  const { seconds, perplexity, proxyError } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
  return rowOf('pipe', { bits, tuning, seed, before: perplexity.original, after: perplexity.quantized, error: proxyError.mean, seconds })
}

function spawn(program: string, words: readonly string[]): void {
  const { status, error } = spawnSync(program, words, { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) throw new Error(`${program} ${words[0]} ended with ${status ?? error?.message}`)
}

const rowOf = (
  method: string,
  o: { bits: string; tuning: string; seed: number; before: number; after: number; error: number; seconds: number },
): Row => ({
  method,
  bits: Number(o.bits),
  [columns.tuning]: o.tuning,
  seed: o.seed,
  [columns.before]: o.before,
  [columns.after]: o.after,
  [columns.error]: o.error,
  'time s': o.seconds,
})

/** Markdown: means over the draws, with the least and the most. */
export function originalTable({ rows }: Figures): string {
  const lines = recipes.flatMap(({ tuning }) =>
    [...new Set(rows.map(row => row.bits))].flatMap(bits => {
      const of = (method: string, column: string): number[] =>
        rows.filter(row => row.method === method && row[columns.tuning] === tuning && row.bits === bits).map(row => Number(row[column]))
      const mean = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0) / x.length
      const spread = (x: readonly number[]): string =>
        x.length === 1 ? mean(x).toFixed(4) : `${mean(x).toFixed(4)} (${Math.min(...x).toFixed(4)}–${Math.max(...x).toFixed(4)})`
      const [theirs, mine] = [of('plain PyTorch', columns.after), of('pipe', columns.after)]
      if (theirs.length === 0 || mine.length === 0) return []
      const [worse, better] = [of('plain PyTorch', columns.error), of('pipe', columns.error)].map(x => mean(x).toExponential(2))
      const difference = 100 * (mean(mine) / mean(theirs) - 1)
      const sign = difference < 0 ? '−' : '+'
      return [[bits, tuning, spread(theirs), spread(mine), `${sign}${Math.abs(difference).toFixed(2)} %`, `${worse} / ${better}`]]
    }),
  )
  const head = ['bits', 'fine-tuning', 'plain PyTorch, perplexity', 'pipe, perplexity', 'difference', 'proxy error, mean: PyTorch / pipe']
  return [head, head.map(() => '---'), ...lines].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const readme = join(root, 'bench/README.md')
  const figures = JSON.parse(readFileSync(join(root, 'bench/results/original.json'), 'utf8')) as Figures
  writeFileSync(readme, withTable(readFileSync(readme, 'utf8'), marks, originalTable(figures)))
}
