/** The main job, from an empty folder: seconds and memory by stage, as `pipe run` says it. `--device cuda:0`; the CPU unless told. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { StageUsage } from '../pipeline/events.js'
import { cardOf, openDevice } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

interface Result {
  seconds: number
  peakRssBytes: number
  bitsPerWeight: number
  perplexity: { original: number; quantized: number }
  stages: StageUsage[]
}

export async function run({ device = 'cpu' }: Options): Promise<Figures> {
  const rows: Row[] = []
  for (const graph of ['qtip-2bit', 'qtip-2bit-fast', 'mul1-2bit']) {
    const out = mkdtempSync(join(tmpdir(), 'pipe-bench-'))
    try {
      const cli = join(root, 'dist/pipeline/cli.js')
      const { status } = spawnSync(process.execPath, [cli, 'run', `graphs/${graph}.json`, '--device', device, '--out', out], {
        cwd: root,
        stdio: ['ignore', 'ignore', 'inherit'],
      })
      if (status !== 0) throw new Error(`pipe run graphs/${graph}.json ended with ${status}`)
      const result = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
      const row = (stage: string, seconds: number, rss: number): Row => ({ graph, stage, 'time s': seconds, 'peak RSS MB': rss / 1e6 })
      rows.push(...result.stages.map(stage => row(stage.id, stage.seconds, stage.peakRssBytes)))
      const { original, quantized } = result.perplexity
      rows.push({
        ...row('all', result.seconds, result.peakRssBytes),
        'bits a weight': result.bitsPerWeight,
        'perplexity before': original,
        'perplexity after': quantized,
      })
    } finally {
      rmSync(out, { recursive: true, force: true })
    }
  }
  return { device, ...cardOf(await openDevice({ device })), rows }
}
