/**
 * A synthetic checkpoint of 2 GB (96 layers, random weights) through model → … → round(scalar) → pack → write: the most
 * memory that the process took, against 1 GB plus the largest layer. Takes minutes, and 12 GB of disk for a while.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { twoGigabytes, writeSynthetic } from '../fixtures/make/synthetic.js'
import type { StageUsage } from '../pipeline/events.js'
import type { Row } from './table.js'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const limit = 600_000_000

export async function run(): Promise<Row[]> {
  const folder = mkdtempSync(join(tmpdir(), 'pipe-bench-'))
  try {
    const bytes = writeSynthetic(join(folder, 'model'), twoGigabytes)
    const graph = {
      name: 'two-gigabytes',
      seed: 0,
      stages: [
        { use: 'model', path: './model' },
        { use: 'calibrate', text: join(root, 'fixtures/tiny-llama/calibration.jsonl'), sequences: 16, length: 128 },
        { use: 'hessian' },
        { use: 'rht' },
        { use: 'round', codebook: { use: 'scalar', K: 2 } },
        { use: 'pack' },
        { use: 'write' },
      ],
    }
    writeFileSync(join(folder, 'graph.json'), JSON.stringify(graph))
    const out = join(folder, 'out')
    const cli = [join(root, 'dist/pipeline/cli.js'), 'run', join(folder, 'graph.json'), '--out', out, '--memory', `${limit}`]
    const { status } = spawnSync(process.execPath, cli, { stdio: ['ignore', 'ignore', 'inherit'] })
    if (status !== 0) throw new Error(`pipe run ended with ${status}`)
    const result = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as {
      seconds: number
      peakRssBytes: number
      stages: StageUsage[]
    }
    const { hidden, intermediate, heads, kvHeads, headDim } = twoGigabytes
    const layer = 2 * (hidden * headDim * (2 * heads + 2 * kvHeads) + 3 * hidden * intermediate)
    const row = (stage: string, seconds: number, rss: number): Row => ({ stage, 'time s': seconds, 'peak RSS MB': rss / 1e6 })
    return [
      ...result.stages.map(stage => row(stage.id, stage.seconds, stage.peakRssBytes)),
      {
        ...row('all', result.seconds, result.peakRssBytes),
        'checkpoint MB': bytes / 1e6,
        '--memory MB': limit / 1e6,
        'allowed MB': 1000 + layer / 1e6,
      },
    ]
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
