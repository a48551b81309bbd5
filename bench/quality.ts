/**
 * What fine-tuning is worth: perplexity and KL at 2, 3 and 4 bits, without it, inside blocks, and of the whole model
 * after that. Every run is `pipe run` of a graph in graphs/, all in one folder, so that the calibration is done once.
 *
 *   --model DIR --text FILE --test FILE   default: the bundled model and its texts
 *   --bits 2,3,4
 *   --device cuda:0                       default: as pipe run chooses
 *   --set stage.parameter=value,…         for all runs, epochs and rates say
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Figures, Options, Row } from './table.js'

/** Graphs of the published recipe for 2 bits; K is set. */
const recipes: readonly [string, string][] = [
  ['none', 'qtip-2bit-fast'],
  ['inside blocks', 'qtip-2bit'],
  ['inside blocks, then the whole model', 'best-2bit'],
]

interface Result {
  readonly seconds: number
  readonly bitsPerWeight: number
  readonly perplexity: { readonly original: number; readonly quantized: number }
  readonly kl: number
}

export function run({ model, text, test, bits = '2,3,4', device, set = '' }: Options): Figures {
  const out = mkdtempSync(join(tmpdir(), 'pipe-quality-'))
  const inputs = Object.entries({ model, text, test }).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
  try {
    const rows = bits.split(',').flatMap(K =>
      recipes.map(([tuning, graph]): Row => {
        const file = fileURLToPath(new URL(`../../graphs/${graph}.json`, import.meta.url))
        // A recipe knows the parameters of its own stages alone.
        const used = readFileSync(file, 'utf8')
        const wanted = set.split(',').filter(each => each !== '' && used.includes(`"use": "${each.split('.')[0]}"`))
        const sets = [`round.codebook.K=${K}`, ...inputs, ...wanted].flatMap(each => ['--set', each])
        const cli = fileURLToPath(new URL('../pipeline/cli.js', import.meta.url))
        const where = device === undefined ? [] : ['--device', device]
        const { status } = spawnSync(process.execPath, [cli, 'run', file, '--out', out, ...where, ...sets], {
          stdio: ['ignore', 'ignore', 'inherit'],
        })
        if (status !== 0) throw new Error(`pipe run graphs/${graph}.json ended with ${status}`)
        const { seconds, bitsPerWeight, perplexity, kl } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
        return {
          bits: Number(K),
          'fine-tuning': tuning,
          'bits a weight': bitsPerWeight,
          'perplexity before': perplexity.original,
          'perplexity after': perplexity.quantized,
          KL: kl,
          'time s': seconds,
        }
      }),
    )
    return { model: model ?? 'fixtures/tiny-llama', rows }
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
}
