/**
 * A model of 7 billion weights through model → (H) → rht → round → pack → write, as `pipe run` does it: a checkpoint with
 * the shapes of Llama-2-7B in bf16 and random weights, its Hessians from a synthetic spectrum (synthetic-hessian.ts).
 *
 *   --device cuda:0   default: the first GPU, else the CPU, there with a model of 2 tiny layers; cuda:0,cuda:0: two queues on one card
 *   --layers 32       fewer to try; --hidden, --intermediate, --heads, --kvHeads, --headDim, --vocab for other shapes
 *   --out DIR         where the checkpoint (13.5 GB) and the results (2.3 GB and more) go while it runs; default: the system's folder for such
 *   --code trellis/hyb --K 2
 *
 * The engine runs in this process, so that its peak memory (VmHWM of the kernel) is the run's; the checkpoint is made by another.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Subject } from 'rxjs'
import { entries, sevenB } from '../fixtures/make/synthetic.js'
import type { Event } from '../pipeline/events.js'
import { loadGraph } from '../pipeline/load-graph.js'
import { runGraph } from '../pipeline/run.js'
import { codebooks } from '../native/codebooks/index.js'
import type { OpStats } from '../native/device.js'
import type { Ops } from '../native/ops.js'
import { stages } from '../stages/index.js'
import { cardOf, openDevices } from './gpu.js'
import type { Figures, Options, Row } from './table.js'

const sizes = ['layers', 'hidden', 'intermediate', 'heads', 'kvHeads', 'headDim', 'vocab'] as const
const tiny = { layers: 2, hidden: 256, intermediate: 688, heads: 4, kvHeads: 4, headDim: 64, vocab: 2048 }

export async function run(options: Options): Promise<Figures> {
  const { K = '2', code = 'trellis/hyb' } = options
  const [ops, ...others] = await openDevices(options)
  const { device } = ops
  const shapes = device.kind === 'cpu' ? { ...sevenB, ...tiny } : sevenB
  const size = { ...shapes }
  for (const name of sizes) size[name] = Number(options[name] ?? size[name])
  const folder = mkdtempSync(join(options.out ?? tmpdir(), 'pipe-seven-b-'))
  try {
    const make = fileURLToPath(import.meta.resolve('../fixtures/make/synthetic.js'))
    const words = Object.entries(size).map(([name, value]) => `${name}=${value}`)
    const { status } = spawnSync(process.execPath, [make, join(folder, 'model'), ...words], { stdio: ['ignore', 'ignore', 'inherit'] })
    if (status !== 0) throw new Error(`the checkpoint could not be made: ${make} ended with ${status}`)
    const file = join(folder, 'graph.json')
    const steps = [
      { use: 'model', path: './model' },
      { use: fileURLToPath(import.meta.resolve('./synthetic-hessian.js')) },
      { use: 'rht' },
      { use: 'round', codebook: { use: code, K: Number(K) } },
      { use: 'pack' },
      { use: 'write' },
    ]
    writeFileSync(file, JSON.stringify({ name: 'seven-b', seed: 0, stages: steps }))

    const events = new Subject<Event>()
    const waits = meter(events)
    const start = performance.now()
    const graph = await loadGraph(file, { stages })
    const result = await runGraph(graph, { out: join(folder, 'out'), ops, others, versions: use => codebooks[use]?.version, events })
    const all = (performance.now() - start) / 1000

    const linear = entries(size).filter(({ name }) => /(proj)\.weight$/.test(name))
    const weights = linear.reduce((sum, { shape }) => sum + (shape[0] ?? 0) * (shape[1] ?? 0), 0)
    const spent = statsOf([ops, ...others])
    const search = spent.get('trellis_encode')?.seconds ?? 0
    const round = result.stages.find(({ id }) => id === 'round')?.seconds ?? all
    const rows: Row[] = [
      { what: 'all', 'time s': all, 'Mweights/s': weights / all / 1e6 },
      { what: 'before the first stage (hashes of the checkpoint)', 'time s': all - result.seconds },
      ...result.stages.map(({ id, seconds }) => ({ what: id, 'time s': seconds, 'Mweights/s': weights / seconds / 1e6 })),
      ...[...spent]
        .filter(([, { seconds }]) => seconds > all / 500)
        .sort(([, a], [, b]) => b.seconds - a.seconds)
        .map(([op, { calls, seconds }]) => ({ what: `op ${op}`, 'time s': seconds, calls })),
    ]
    return {
      ...cardOf(ops),
      device: [ops, ...others].map(({ device: { name } }) => name).join(),
      layers: size.layers,
      weights,
      code: `${code}, ${K} bits`,
      'search busy, share of rounding': search / round,
      'search busy, share of all': search / all,
      'peak host memory GB': peakHostBytes() / 1e9,
      'peak device memory, tensors GB': [ops, ...others].reduce((sum, one) => sum + one.device.peakBytes, 0) / 1e9,
      'peak device memory, all GB': (device.info().takenBytes ?? 0) / 1e9,
      'written GB': waits.written() / 1e9,
      'event loop held, longest s': waits.longest(),
      'event loop held, s': waits.held(),
      quality: result.results,
      rows,
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Calls and seconds by op, of all devices together: with several queues on a card, spans overlap. */
function statsOf(devices: readonly Ops[]): Map<string, OpStats> {
  const sums = new Map<string, OpStats>()
  for (const { device } of devices) {
    for (const [op, { calls, seconds }] of Object.entries(device.stats())) {
      const sum = sums.get(op) ?? { calls: 0, seconds: 0 }
      sums.set(op, { calls: sum.calls + calls, seconds: sum.seconds + seconds })
    }
  }
  return sums
}

/** Bytes stored, and how long the event loop was kept from everything else: a tick of 10 ms that comes late. */
function meter(events: Subject<Event>) {
  const period = 10
  let bytes = 0
  let [held, longest] = [0, 0]
  let last = performance.now()
  const timer = setInterval(() => {
    const late = performance.now() - last - period
    last = performance.now()
    if (late > period) held += late
    longest = Math.max(longest, late)
  }, period)
  events.subscribe({
    next: event => {
      if (event.kind === 'batch-finished') bytes += event.bytes
      if (event.kind === 'result' || event.kind === 'failed') clearInterval(timer)
    },
  })
  return { written: () => bytes, held: () => held / 1000, longest: () => longest / 1000 }
}

/** The most memory that this process has had, of all kinds: VmHWM. Files that were read or written are the kernel's. */
const peakHostBytes = (): number => {
  const [, kilobytes] = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return Number(kilobytes) * 1024
}
