/**
 * What `pipe bench --shape` says of several models, codes and numbers of texts, one after the other: random weights of the
 * shape, a prompt, tokens made after it. Cases are separated by commas; a case is the words that differ from hyb at 2 bits
 * in f32 for one text: a shape; a code; a number of bits; "x8" for eight texts; "prompt 1024"; "layers 8" in
 * place of all; "int8" (activations), "dense" or "bf16" (dense matrices in bf16); "drawn" where tokens are not the likeliest.
 *
 *   --device cuda:0 --prompt 128 --tokens 128 --cases "llama-2-7b,llama-2-7b mul1 4,llama-2-7b x8,llama-2-70b"
 *
 * `node dist/bench/generation.js` writes the tables of bench/README.md and README.md from results/generation.json and generation-cpu.json.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Ops } from '../native/ops.js'
import { draws } from '../pipeline/random.js'
import { rate } from '../pipeline/text.js'
import { measure } from '../stages/model/bench.js'
import { readConfig } from '../stages/model/config.js'
import { drawOf, type Sampling } from '../stages/model/sampling.js'
import { randomWeights, shapeNames, shapeOf } from '../stages/model/shapes.js'
import { root } from './commit.js'
import { cardOf, openDevice } from './gpu.js'
import { type Figures, type Options, type Row, withTable } from './table.js'

const marks = ['<!-- generation -->', '<!-- /generation -->'] as const
const shortMarks = {
  cuda: ['<!-- tokens a second: GPU -->', '<!-- /tokens a second: GPU -->'],
  cpu: ['<!-- tokens a second: CPU -->', '<!-- /tokens a second: CPU -->'],
} as const

const usual = [
  'llama-2-7b',
  'llama-2-7b 3',
  'llama-2-7b 4',
  'llama-2-7b mul1',
  'llama-2-7b mul1 4',
  'llama-2-7b prompt 1024',
  'llama-2-7b layers 8',
  'llama-2-7b x8',
  'llama-2-7b x8 drawn',
  'llama-2-13b',
  'llama-3-8b',
  'qwen2-7b',
  'qwen3-8b',
  'llama-2-70b',
].join()

interface Case {
  readonly model: string
  readonly code: string
  readonly bits: number
  readonly batch: number
  readonly prompt: number
  /** Of the model's, where not all. */
  readonly layers?: number
  readonly weights: 'packed' | 'dense'
  readonly activations: 'f32' | 'int8'
  readonly precision?: 'bf16'
  readonly picks?: 'drawn'
}

/** With all that is there to be done at every token. */
const drawn: Sampling = { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05, repetitionPenalty: 1.1 }

/** Throws on a word that is none. */
export function caseOf(text: string, prompt: number): Case {
  const [model = '', ...words] = text.trim().split(/\s+/)
  if (!shapeNames().includes(model)) throw new Error(`--cases: ${model} is no shape; there are: ${shapeNames().join(', ')}`)
  let one: Case = { model, code: 'hyb', bits: 2, batch: 1, prompt, weights: 'packed', activations: 'f32' }
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (/^[1-4]$/.test(word)) one = { ...one, bits: Number(word) }
    else if (/^x[1-9]\d?$/.test(word)) one = { ...one, batch: Number(word.slice(1)) }
    else if (word === 'prompt' && Number(words[0]) > 0) one = { ...one, prompt: Number(words.shift()) }
    else if (word === 'layers' && Number(words[0]) > 0) one = { ...one, layers: Number(words.shift()) }
    else if (word === 'int8') one = { ...one, activations: word }
    else if (word === 'dense') one = { ...one, weights: word }
    else if (word === 'bf16') one = { ...one, precision: word }
    else if (word === 'drawn') one = { ...one, picks: word }
    else if (['hyb', '1mad', '3inst', 'mul1', 'mcg'].includes(word)) one = { ...one, code: word }
    else
      throw new Error(
        `--cases: "${word}" of "${text.trim()}" is no code, bits, xTEXTS, prompt TOKENS, layers COUNT, int8, dense, bf16 or drawn`,
      )
  }
  return one
}

async function rowOf(ops: Ops, one: Case, tokens: number): Promise<Row> {
  const { model, code, bits, precision, layers, picks, ...rest } = one
  const uniform = draws(0, 'bench')
  const packed = one.weights === 'packed'
  const whole = shapeOf(model)
  const config = layers === undefined ? whole : readConfig({ ...whole.raw, num_hidden_layers: layers }, model)
  using weights = randomWeights(ops, config, model, packed ? { use: `trellis/${code}`, K: bits } : undefined)
  const figures = await measure(ops, weights, {
    ...rest,
    ...(precision && { precision }),
    ...(picks && { draw: () => drawOf(drawn, uniform) }),
    tokens,
    cache: 'f32',
  })
  const named = {
    model,
    ...(layers && { layers }),
    ...(packed && { code, bits }),
    ...rest,
    ...(precision && { precision }),
    ...(picks && { picks }),
  }
  return { ...named, tokens, cache: 'f32', ...figures }
}

export async function run(o: Options): Promise<Figures> {
  const cases = (o.cases ?? usual).split(',').map(text => caseOf(text, Number(o.prompt ?? 128)))
  const ops = await openDevice(o)
  const rows: Row[] = []
  for (const one of cases) {
    rows.push(await rowOf(ops, one, Number(o.tokens ?? 128)))
    await ops.finish()
  }
  return { device: ops.device.name, ...cardOf(ops), isa: ops.device.info().isa, rows }
}

/** Markdown. */
export function generationTable({ rows }: Figures): string {
  const head = ['shape', 'code, bits', 'texts', 'tokens/s', 'ms a step', 'of the bound', 'prompt', 'its tokens/s', 'ms to its end']
  const lines = rows.map(row => {
    const number = (column: string): number => Number(row[column])
    const code =
      row.weights === 'dense' ? (row.precision ?? 'dense') : `${row.code}, ${row.bits}${row.activations === 'int8' ? ', int8' : ''}`
    const made = [rate(number('tokensPerSecond')), (1e3 * number('step')).toFixed(2), `${Math.round(100 * number('share'))} %`]
    const shape = row.layers === undefined ? row.model : `${row.model}, ${row.layers} layers`
    const texts = row.picks === undefined ? row.batch : `${row.batch}, ${row.picks}`
    return [shape, code, texts, ...made, row.prompt, rate(number('promptTokensPerSecond')), (1e3 * number('firstToken')).toFixed(1)]
  })
  return [head, head.map(() => '---'), ...lines].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

/** Markdown: tokens a second of whole models, a line a shape; where a case was run several times, the least and the most. */
export function shortTable({ rows }: Figures, title: string, columns: Readonly<Record<string, Row>>): string {
  const whole = rows.filter(row => row.layers === undefined && row.picks === undefined)
  const models = [...new Set(whole.map(row => `${row.model}`))]
  const lines = models.map(model => {
    const prompt = whole.find(row => row.model === model)?.prompt ?? 0 // others are cases of their own
    const cells = Object.values(columns).map(of => {
      const wanted: Row = { model, prompt, batch: 1, activations: 'f32', ...of }
      const runs = whole.filter(row => Object.entries(wanted).every(([name, value]) => row[name] === value))
      const rates = runs.map(row => Number(row.tokensPerSecond))
      const [least, most] = [rate(Math.min(...rates)), rate(Math.max(...rates))]
      return runs.length === 0 ? '' : least === most ? least : `${least}–${most}`
    })
    return [model, ...cells]
  })
  const head = [title, ...Object.keys(columns)]
  return [head, head.map(() => '---'), ...lines].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

const shortColumns = {
  cuda: {
    'hyb, 2 bits': { code: 'hyb', bits: 2 },
    'hyb, 3': { code: 'hyb', bits: 3 },
    'hyb, 4': { code: 'hyb', bits: 4 },
    'mul1, 2': { code: 'mul1', bits: 2 },
    'mul1, 4': { code: 'mul1', bits: 4 },
    'eight texts, hyb, 2': { code: 'hyb', bits: 2, batch: 8 },
  },
  cpu: {
    bf16: { weights: 'dense' },
    'hyb, 2 bits': { code: 'hyb', bits: 2 },
    mul1: { code: 'mul1', bits: 2 },
    '3inst': { code: '3inst', bits: 2 },
    'hyb, activations of 8 bits': { code: 'hyb', bits: 2, activations: 'int8' },
    'mul1, of 8 bits': { code: 'mul1', bits: 2, activations: 'int8' },
    'eight texts, hyb': { code: 'hyb', bits: 2, batch: 8 },
  },
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const figures = (name: string) => JSON.parse(readFileSync(join(root, 'bench/results', `${name}.json`), 'utf8')) as Figures
  const write = (file: string, marks: readonly [string, string], table: string) => {
    const path = join(root, file)
    writeFileSync(path, withTable(readFileSync(path, 'utf8'), marks, table))
  }
  const [gpu, cpu] = [figures('generation'), figures('generation-cpu')]
  write('bench/README.md', marks, generationTable(gpu))
  write('README.md', shortMarks.cuda, shortTable(gpu, 'tokens/s on an H100', shortColumns.cuda))
  write('README.md', shortMarks.cpu, shortTable(cpu, 'tokens/s on two cores', shortColumns.cpu))
}
