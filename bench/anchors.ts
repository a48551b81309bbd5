/**
 * The table that stands in the README: what was measured here beside what the published programs reach on the same kind of
 * card. Ours come from bench/results; theirs were measured on an H100 80GB HBM3 with CUDA 13.0, their own code, unless
 * another source is named. `node dist/bench/anchors.js` writes the table into the README.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { withTable } from './table.js'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const marks = ['<!-- anchors -->', '<!-- /anchors -->'] as const

type Measured = Readonly<Record<string, string | number>>
interface Results extends Readonly<Record<string, unknown>> {
  readonly rows: readonly Measured[]
}

const results = (name: string): Results => JSON.parse(readFileSync(join(root, 'bench/results', `${name}.json`), 'utf8')) as Results

/** The largest figure of this column among the rows with these values. */
const figure = ({ rows }: Results, column: string, of: Measured): number =>
  Math.max(...rows.filter(row => Object.entries(of).every(([name, value]) => row[name] === value)).map(row => Number(row[column])))

const round = (value: number): string => (value >= 100 ? value.toFixed(0) : `${Number(value.toPrecision(2))}`)

/** Markdown. */
export function anchorsTable(): string {
  const [trellis, ldlq, seven] = [results('trellis-cuda'), results('ldlq'), results('seven-b')]
  const [product, generation] = [results('product-kernels-cuda'), results('generation')]
  const times = (code: string): string => sizes.map(size => round(figure(product, 'µs', { code, t: 1, ...size }))).join(' / ')
  const sizes = [
    { K: 2, m: 4096, n: 4096 },
    { K: 2, m: 11008, n: 4096 },
    { K: 2, m: 8192, n: 28672 },
  ]
  const whole = { ...generation, rows: generation.rows.filter(row => row.layers === undefined) }
  const rate = (of: Measured): string => round(figure(whole, 'tokensPerSecond', { batch: 1, code: 'hyb', bits: 2, ...of }))
  const rates = (code: string, bits = [2, 3, 4]): string => bits.map(K => round(figure(trellis, 'Mweights/s', { code, K }))).join(' / ')
  const [all] = seven.rows
  const lines = [
    ['search, hyb, 2 / 3 / 4 bits, Mweights/s', rates('hyb'), '1.2 / 1.7 / 0.52', 'QTIP'],
    ['search, 1mad, 2 / 3 / 4 bits, Mweights/s', rates('1mad'), '0.67 / 0.58 / 0.26', 'QTIP'],
    ['search, mul1, 2 / 3 / 4 bits, Mweights/s', rates('mul1'), '16–18 / 18 / 19', 'EXL3'],
    ['LDLQ of 4096 × 4096, hyb, 2 bits, s', figure(ldlq, 'warm s', { what: 'o', code: 'trellis/hyb', K: 2 }).toFixed(3), '9.2', 'QTIP'],
    [
      'Llama-2-7B’s linears, hyb, 2 bits, s: rounding / all from checkpoint to checkpoint, without calibration',
      `${round(figure(seven, 'time s', { what: 'round' }))} / ${round(Number(all?.['time s']))}`,
      '3600 / –',
      'QTIP, from its 1.8 Mweights/s of LDLQ',
    ],
    [
      'one vector times packed weights, hyb, 2 bits, 4096 × 4096 / 11008 × 4096 / 8192 × 28672, µs',
      times('hyb'),
      '5.5 / 13.5 / 49.5',
      'QTIP',
    ],
    [
      'tokens/s, 2 bits, one text: shapes of Llama-2-7B / Llama-3-8B / Llama-2-70B',
      ['llama-2-7b', 'llama-3-8b', 'llama-2-70b'].map(model => rate({ model })).join(' / '),
      '188 / – / –',
      'QTIP, on an RTX 6000 Ada',
    ],
  ]
  return ['| | here | published code | |', '|---|---|---|---|', ...lines.map(cells => `| ${cells.join(' | ')} |`)].join('\n')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const readme = join(root, 'README.md')
  writeFileSync(readme, withTable(readFileSync(readme, 'utf8'), marks, anchorsTable()))
}
