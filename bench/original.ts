/**
 * The published recipe in plain PyTorch (bench/original/original.py) beside this project: same model, same calibration tokens,
 * same table of the code, same text to measure on; several draws of the random signs on both sides. Without fine-tuning and
 * with it inside blocks, one epoch at the same rate of weights; ours also with a scale for each output row, which is not published.
 *
 *   --seeds 8             draws without fine-tuning
 *   --tuned 4             draws with it
 *   --parallel 1          processes of the other side at once
 *   --bits 2
 *   --device cuda:0       of ours; default: as pipe run chooses
 *   --python python3      one with torch, transformers, tokenizers and safetensors
 *   --from FILE           the other side as an earlier result has it: it is not run again
 *
 * `npm run bench -- original` measures; `node dist/bench/original.js` writes the table into bench/README.md.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { root } from './commit.js'
import { type Figures, type Options, type Row, withTable } from './table.js'

const marks = ['<!-- original -->', '<!-- /original -->'] as const
const columns = {
  before: 'perplexity before',
  after: 'perplexity after',
  error: 'proxy error, mean',
  tuning: 'fine-tuning',
  scales: 'row scales',
} as const
/** Graphs of the recipe; what the other side is told besides; how many draws. */
const recipes = [
  { tuning: 'none', graph: 'qtip-2bit-fast', told: ['--epochs', '0'], draws: 'seeds' },
  {
    tuning: 'inside blocks',
    graph: 'qtip-2bit',
    told: ['--epochs', '1', '--rate', '3e-4', '--batch', '4', '--valid', '32'],
    draws: 'tuned',
  },
] as const
const theirMethod = 'plain PyTorch'
/** Whether rows get a scale of their own: of ours alone. */
const variants = ['no', 'yes'] as const

interface Result {
  readonly seconds: number
  readonly perplexity: { readonly original: number; readonly quantized: number }
  readonly proxyError: { readonly mean: number }
}

/** The machine of the other side; a CPU has no card to name. */
interface Machine extends Readonly<Partial<Record<'gpu' | 'driver' | 'cuda', string>>> {
  readonly torch: string
}

interface Theirs extends Machine {
  readonly original: number
  readonly runs: readonly {
    readonly seed: number
    readonly perplexity: number
    readonly proxyErrorMean: number
    readonly seconds: number
  }[]
}

interface Earlier extends Machine {
  readonly commit: string
  readonly rows: readonly Row[]
}

export async function run({
  seeds = '8',
  tuned = '4',
  parallel = '1',
  bits = '2',
  device,
  python = 'python3',
  from,
}: Options): Promise<Figures> {
  const model = join(root, 'fixtures/tiny-llama')
  const texts = { text: join(model, 'calibration.jsonl'), test: join(model, 'test.jsonl') }
  const out = mkdtempSync(join(tmpdir(), 'pipe-original-'))
  const rows: Row[] = []
  const earlier = from === undefined ? undefined : (JSON.parse(readFileSync(from, 'utf8')) as Earlier)
  let machine: Readonly<Record<string, unknown>> = {}
  try {
    for (const { tuning, graph, told, draws } of recipes) {
      const count = Number(draws === 'seeds' ? seeds : tuned)
      for (const scales of variants)
        for (let seed = 0; seed < count; seed++)
          rows.push(await ours(join(out, 'ours'), { graph, tuning, scales, seed, bits, model, ...texts, device }))
      if (earlier !== undefined) {
        const { gpu, driver, cuda, torch, commit } = earlier
        machine = { gpu, driver, cuda, torch, theirCommit: commit }
        rows.push(...earlier.rows.filter(row => row.method === theirMethod && row[columns.tuning] === tuning))
        continue
      }
      const each = Math.ceil(count / Number(parallel))
      const firsts = Array.from({ length: Math.ceil(count / each) }, (_, i) => i * each)
      const same = { model, quantized: join(out, 'ours/model'), ...texts, bits, sequences: '128', length: '256', measured: '64' }
      const said = firsts.map(first => ({
        ...same,
        first: `${first}`,
        seeds: `${Math.min(each, count - first)}`,
        out: join(out, `theirs-${first}.json`),
      }))
      for (const { original, runs, gpu, driver, cuda, torch } of await Promise.all(said.map(one => theirs(python, one, told)))) {
        machine = { gpu, driver, cuda, torch }
        for (const { seed, perplexity, proxyErrorMean, seconds } of runs) {
          const figures = { before: original, after: perplexity, error: proxyErrorMean, seconds }
          rows.push(rowOf(theirMethod, { bits, tuning, scales: 'no', seed, ...figures }))
        }
      }
    }
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
  return { model: 'fixtures/tiny-llama', ...machine, rows }
}

async function theirs(python: string, said: Readonly<Record<'out', string>>, told: readonly string[]): Promise<Theirs> {
  const words = Object.entries(said).flatMap(([name, value]) => [`--${name}`, value])
  await ended(python, [join(root, 'bench/original/original.py'), ...words, ...told])
  return JSON.parse(readFileSync(said.out, 'utf8')) as Theirs
}

interface Job extends Readonly<Record<'graph' | 'tuning' | 'scales' | 'bits' | 'model' | 'text' | 'test', string>> {
  readonly seed: number
  readonly device?: string | undefined
}

async function ours(out: string, { graph, tuning, scales, seed, bits, device, ...inputs }: Job): Promise<Row> {
  const file = join(tmpdir(), `pipe-original-${process.pid}.json`)
  const recipe = JSON.parse(readFileSync(join(root, `graphs/${graph}.json`), 'utf8')) as object
  writeFileSync(file, JSON.stringify({ ...recipe, seed }))
  try {
    const settings = { ...inputs, 'round.codebook.K': bits, 'round.rowScale': `${scales === 'yes'}` }
    const sets = Object.entries(settings).flatMap(([name, value]) => ['--set', `${name}=${value}`])
    const cli = fileURLToPath(new URL('../pipeline/cli.js', import.meta.url))
    const where = device === undefined ? [] : ['--device', device]
    await ended(process.execPath, [cli, 'run', file, '--out', out, ...where, ...sets])
  } finally {
    rmSync(file, { force: true })
  }
  const { seconds, perplexity, proxyError } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
  const figures = { before: perplexity.original, after: perplexity.quantized, error: proxyError.mean, seconds }
  return rowOf('pipe', { bits, tuning, scales, seed, ...figures })
}

async function ended(program: string, words: readonly string[]): Promise<void> {
  const [status] = await once(spawn(program, words, { stdio: ['ignore', 'ignore', 'inherit'] }), 'exit')
  if (status !== 0) throw new Error(`${program} ${words[0]} ended with ${status}`)
}

interface Figured
  extends Readonly<Record<'bits' | 'tuning' | 'scales', string>>,
    Readonly<Record<'seed' | 'before' | 'after' | 'error' | 'seconds', number>> {}

const rowOf = (method: string, o: Figured): Row => ({
  method,
  bits: Number(o.bits),
  [columns.tuning]: o.tuning,
  [columns.scales]: o.scales,
  seed: o.seed,
  [columns.before]: o.before,
  [columns.after]: o.after,
  [columns.error]: o.error,
  'time s': o.seconds,
})

/** Markdown: means over the draws and their standard errors. */
export function originalTable({ rows }: Figures): string {
  const lines = recipes.flatMap(({ tuning }) =>
    [...new Set(rows.map(row => row.bits))].flatMap(bits => {
      const of = (method: string, scales: string, column: string): number[] => {
        const isAsked = (row: Row): boolean => row.method === method && row[columns.tuning] === tuning && row[columns.scales] === scales
        return rows.filter(row => row.bits === bits && isAsked(row)).map(row => Number(row[column]))
      }
      const theirs = of(theirMethod, 'no', columns.after)
      return variants.flatMap(scales => {
        const mine = of('pipe', scales, columns.after)
        if (theirs.length === 0 || mine.length === 0) return []
        const [worse, better] = [of(theirMethod, 'no', columns.error), of('pipe', scales, columns.error)].map(x => mean(x).toExponential(2))
        const difference = 100 * (mean(mine) / mean(theirs) - 1)
        const error = (100 * Math.hypot(deviation(mine), deviation(theirs))) / mean(theirs)
        const sign = difference < 0 ? '−' : '+'
        const shown = `${sign}${Math.abs(difference).toFixed(2)} ± ${error.toFixed(2)} %`
        return [[bits, tuning, scales, `${theirs.length}, ${mine.length}`, spread(theirs), spread(mine), shown, `${worse} / ${better}`]]
      })
    }),
  )
  const head = [
    'bits',
    'fine-tuning',
    'our row scales',
    'draws',
    'plain PyTorch, perplexity',
    'pipe, perplexity',
    'difference',
    'proxy error, mean: PyTorch / pipe',
  ]
  return [head, head.map(() => '---'), ...lines].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

const mean = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0) / x.length
/** Standard error of the mean. */
const deviation = (x: readonly number[]): number => {
  const squares = x.reduce((sum, one) => sum + (one - mean(x)) ** 2, 0)
  return x.length === 1 ? 0 : Math.sqrt(squares / (x.length - 1) / x.length)
}
const spread = (x: readonly number[]): string =>
  x.length === 1 ? mean(x).toFixed(4) : `${mean(x).toFixed(4)} (${Math.min(...x).toFixed(4)}–${Math.max(...x).toFixed(4)})`

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const readme = join(root, 'bench/README.md')
  const figures = JSON.parse(readFileSync(join(root, 'bench/results/original.json'), 'utf8')) as Figures
  writeFileSync(readme, withTable(readFileSync(readme, 'utf8'), marks, originalTable(figures)))
}
