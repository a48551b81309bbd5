/**
 * What more devices bring: model → (H) → rht → round → pack of a model with the shapes of Llama-2-7B on the first device,
 * then on the first two, four, … and on all, each in a process and a folder of its own as `pipe run` does it. The stored
 * files of all runs are compared byte by byte. Rounding is rht, round and pack, from when a device first has work to when the
 * last has none (the time in which some batch was in `round` says less: one device has moments when its two are before or behind it).
 *
 *   --device cuda:0,cuda:1   default: all GPUs; without one cpu,cpu, with tiny layers and half the cores each
 *   --layers 16              4 batches each; fewer than 8 a device, and the last ones show
 *   --out DIR                where checkpoint and results go while it runs (7 + 4 GB a run at 16 layers); default: the system's folder for such
 *   --code trellis/hyb --K 2
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { entries, sevenB } from '../fixtures/make/synthetic.js'
import { openBackend } from '../native/index.js'
import type { DeviceUsage } from '../pipeline/events.js'
import { equalFiles } from './equal-files.js'
import { cardOf } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const tiny = { layers: 4, hidden: 256, intermediate: 688, heads: 4, kvHeads: 4, headDim: 64, vocab: 2048 }
const here = (path: string): string => fileURLToPath(import.meta.resolve(path))

interface Result {
  readonly seconds: number
  readonly devices: readonly DeviceUsage[]
}

export async function run({ device, layers, out, code = 'trellis/hyb', K = '2' }: Options): Promise<Figures> {
  const names = device?.split(',') ?? (await allGpus())
  const first = await openBackend(names[0] as string)
  const size = {
    ...sevenB,
    ...(first.device.kind === 'cpu' ? tiny : { layers: 16 }),
    ...(layers === undefined ? {} : { layers: Number(layers) }),
  }
  const threads = first.device.kind === 'cpu' ? `${Math.max(1, Math.floor(availableParallelism() / names.length))}` : undefined
  const folder = mkdtempSync(join(out ?? tmpdir(), 'pipe-devices-'))
  try {
    const words = Object.entries(size).map(([name, value]) => `${name}=${value}`)
    execute([here('../fixtures/make/synthetic.js'), join(folder, 'model'), ...words])
    const file = join(folder, 'graph.json')
    const stages = [
      { use: 'model', path: './model' },
      { use: here('./synthetic-hessian.js') },
      { use: 'rht' },
      { use: 'round', codebook: { use: code, K: Number(K) } },
      { use: 'pack' },
    ]
    writeFileSync(file, JSON.stringify({ name: 'devices', seed: 0, stages }))
    const linears = entries(size).filter(({ name }) => name.endsWith('proj.weight'))
    const weights = linears.reduce((sum, { shape: [m = 0, n = 0] }) => sum + m * n, 0)

    const runs = prefixes(names).map(list => {
      const target = join(folder, `on-${list.length}`)
      execute([here('../pipeline/cli.js'), 'run', file, '--device', list.join(), '--out', target], threads)
      return { list, target, result: JSON.parse(readFileSync(join(target, 'result.json'), 'utf8')) as Result }
    })
    const worked = ({ result }: (typeof runs)[number]): number => Math.max(...result.devices.map(({ seconds }) => seconds))
    const [one] = runs
    if (one === undefined) throw new Error('no device')
    const rows = runs.map((each): Row => {
      const { list, result, target } = each
      return {
        devices: list.join(),
        'rounding s': worked(each),
        'Mweights/s': weights / worked(each) / 1e6,
        'rounding, × one': worked(one) / worked(each),
        'all s': result.seconds,
        'all, × one': one.result.seconds / result.seconds,
        'had work, least %': (100 * Math.min(...result.devices.map(used => used.seconds))) / result.seconds,
        'ops, least % of all': (100 * Math.min(...result.devices.map(used => used.opSeconds))) / result.seconds,
        'equal files': equalFiles(join(one.target, 'cache'), join(target, 'cache'), 'on more devices'),
      }
    })
    return { ...cardOf(first), layers: size.layers, weights, code: `${code}, ${K} bits`, rows }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function allGpus(): Promise<string[]> {
  const names: string[] = []
  while (
    await openBackend(`cuda:${names.length}`).then(
      () => true,
      () => false,
    )
  )
    names.push(`cuda:${names.length}`)
  return names.length > 0 ? names : ['cpu', 'cpu']
}

/** The first, the first two, four, …, all. */
const prefixes = (names: readonly string[]): string[][] => {
  const lengths = new Set<number>()
  for (let n = 1; n < names.length; n *= 2) lengths.add(n)
  return [...lengths.add(names.length)].map(n => names.slice(0, n))
}

function execute(words: readonly string[], threads?: string): void {
  const env = { ...process.env, ...(threads === undefined ? {} : { PIPE_THREADS: threads }) }
  const { status } = spawnSync(process.execPath, words, { stdio: ['ignore', 'ignore', 'inherit'], env })
  if (status !== 0) throw new Error(`${words.join(' ')} ended with ${status}`)
}
