/**
 * What fine-tuning and guided Hessians are worth: perplexity and KL for models × bits × {none, inside blocks, then of the
 * whole model} × {plain, guided}. Every row is `pipe run` of a graph in graphs/; those of a model run in one folder, so that
 * calibration and rounding are done once. A row is put into results/quality.json as it ends, in the place of an older one of
 * that name, so that the table may be made in several runs, on several machines; README.md here then shows them.
 *
 *   --models DIR,DIR                   folders with calibration.jsonl and test.jsonl; default: the bundled model
 *   --text FILE --test FILE            for models without: read from the start, from the end
 *   --bits 2,3,4
 *   --rows NAME,NAME                   MODEL/BITS/none, blocks or model/plain or guided; * for any letters: tiny-llama/2/*
 *   --groups 4                         of outputs, for guided Hessians
 *   --from FILE                        takes in the rows of such a file from elsewhere; measures what --rows says, if it is given
 *   --device cuda:0                    default: as pipe run chooses
 *   --set stage.parameter=value,…      for all runs, epochs and rates say
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { commit, root } from './commit.js'
import { cardOf, openDevice } from './gpu.js'
import { type Figures, type Options, printTable, type Row } from './table.js'

/** Graphs of the published recipe for 2 bits; K is set. */
const recipes = { none: 'qtip-2bit-fast', blocks: 'qtip-2bit', model: 'best-2bit' } as const
const tunings = Object.keys(recipes) as (keyof typeof recipes)[]
const results = join(root, 'bench/results/quality.json')

interface Result {
  readonly seconds: number
  readonly bitsPerWeight: number
  readonly perplexity: { readonly original: number; readonly quantized: number }
  readonly kl: number
}

interface Job {
  readonly name: string
  readonly model: string
  readonly K: string
  readonly tuning: keyof typeof recipes
  readonly guided: boolean
}

export async function run(o: Options): Promise<Figures> {
  if (o.from !== undefined) {
    for (const row of rowsOf(o.from)) keep(row)
    if (o.rows === undefined) return shown({})
  }
  const { models = join(root, 'fixtures/tiny-llama'), bits = '2,3,4', rows: wanted = '*' } = o
  const patterns = wanted.split(',').map(pattern => new RegExp(`^${pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')}$`))
  const jobs = models
    .split(',')
    .flatMap(model => bits.split(',').flatMap(K => tunings.flatMap(tuning => [false, true].map(guided => ({ model, K, tuning, guided })))))
    .map((job): Job => ({ ...job, name: `${basename(job.model)}/${job.K}/${job.tuning}/${job.guided ? 'guided' : 'plain'}` }))
    .filter(({ name }) => patterns.some(pattern => pattern.test(name)))
  if (jobs.length === 0) throw new Error(`no row is called ${wanted}: MODEL/BITS/none, blocks or model/plain or guided`)
  const ops = await openDevice(o)
  const where = { device: ops.device.kind === 'cpu' ? (cpus()[0]?.model ?? 'cpu') : (cardOf(ops).gpu ?? ''), commit: commit() }
  const out = mkdtempSync(join(tmpdir(), 'pipe-quality-'))
  try {
    for (const job of jobs) {
      const row = { ...measure(job, join(out, basename(job.model)), o), ...where }
      printTable([row])
      keep(row)
    }
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
  return shown(cardOf(ops))
}

/** One run of `pipe`; `out`: the folder of all runs of its model. */
function measure({ name, model, K, tuning, guided }: Job, out: string, { text, test, device, set = '', groups = '4' }: Options): Row {
  const graph = join(root, `graphs/${recipes[tuning]}.json`)
  const own = (file: string, given: string | undefined): string => given ?? join(model, file)
  const inputs = { model, text: own('calibration.jsonl', text), test: own('test.jsonl', test) }
  // A recipe knows the parameters of its own stages alone.
  const used = readFileSync(graph, 'utf8')
  const wanted = set.split(',').filter(each => each !== '' && used.includes(`"use": "${each.split('.')[0]}"`))
  const hessian = guided
    ? ['calibrate.gradients=true', 'hessian.weight=gradient', `hessian.groups=${groups}`]
    : ['calibrate.gradients=false', 'hessian.weight=none', 'hessian.groups=1']
  const sets = [`round.codebook.K=${K}`, ...Object.entries(inputs).map(([input, value]) => `${input}=${value}`), ...hessian, ...wanted]
  const cli = fileURLToPath(new URL('../pipeline/cli.js', import.meta.url))
  const where = device === undefined ? [] : ['--device', device]
  mkdirSync(out, { recursive: true })
  const { status } = spawnSync(process.execPath, [cli, 'run', graph, '--out', out, ...where, ...sets.flatMap(each => ['--set', each])], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  if (status !== 0) throw new Error(`${name}: pipe run ended with ${status}`)
  const { seconds, bitsPerWeight, perplexity, kl } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
  return {
    model: basename(model),
    bits: Number(K),
    'fine-tuning': tuning,
    Hessian: guided ? 'guided' : 'plain',
    groups: guided ? Number(groups) : 1,
    'bits a weight': bitsPerWeight,
    'perplexity before': perplexity.original,
    'perplexity after': perplexity.quantized,
    KL: kl,
    'time s': seconds,
  }
}

const nameOf = (row: Row): string => ['model', 'bits', 'fine-tuning', 'Hessian'].map(column => row[column]).join('/')

const figuresOf = (file: string): Figures => (existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Figures) : { rows: [] })
const rowsOf = (file: string): readonly Row[] => figuresOf(file).rows

/** In its place among the rows measured before, whole or not at all. */
function keep(row: Row): void {
  const more = figuresOf(results)
  const rows = [...more.rows.filter(one => nameOf(one) !== nameOf(row)), row]
  const place = (one: Row): string =>
    `${one.model} ${one.bits} ${tunings.indexOf(one['fine-tuning'] as keyof typeof recipes)} ${one.groups}`
  rows.sort((a, b) => (place(a) < place(b) ? -1 : 1))
  mkdirSync(dirname(results), { recursive: true })
  writeFileSync(`${results}.part`, `${JSON.stringify({ ...more, rows }, null, 2)}\n`)
  renameSync(`${results}.part`, results)
}

const marks = ['<!-- quality -->', '<!-- /quality -->'] as const

/** All rows, which README.md beside this file shows from now on, where it is there. */
function shown(more: Readonly<Record<string, string>>): Figures {
  const rows = rowsOf(results)
  const page = join(root, 'bench/README.md')
  const text = existsSync(page) ? readFileSync(page, 'utf8') : ''
  const [begin, end] = [text.indexOf(marks[0]), text.indexOf(marks[1])]
  if (begin !== -1 && end > begin)
    writeFileSync(page, `${text.slice(0, begin + marks[0].length)}\n${qualityTable(rows)}\n${text.slice(end)}`)
  return { ...more, rows }
}

/** Markdown: plain and guided side by side. */
export function qualityTable(rows: readonly Row[]): string {
  const named = new Map(rows.map(row => [nameOf(row), row]))
  const cells = (row: Row, column: string, digits: number): string[] =>
    ['plain', 'guided'].map(Hessian => {
      const value = named.get(nameOf({ ...row, Hessian }))?.[column]
      return typeof value === 'number' ? value.toFixed(digits) : ''
    })
  const kinds = [...new Map(rows.map(row => [nameOf({ ...row, Hessian: 'plain' }), row])).values()]
  const lines = kinds.map(row => {
    const { model = '', bits = '', 'fine-tuning': tuning = '', 'perplexity before': before } = row
    return [model, bits, tuning, Number(before).toFixed(4), ...cells(row, 'perplexity after', 4), ...cells(row, 'KL', 5)]
  })
  const head = ['model', 'bits', 'fine-tuning', 'perplexity before', 'plain', 'guided', 'KL, plain', 'KL, guided']
  return [head, head.map(() => '---'), ...lines].map(line => `| ${line.join(' | ')} |`).join('\n')
}
