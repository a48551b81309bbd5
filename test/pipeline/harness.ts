/** Runs of toy graphs in temporary folders, and what they gave. */
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Subject } from 'rxjs'
import t from 'tap'
import type { RunOptions } from '../../pipeline/engine.js'
import { PipeError } from '../../pipeline/error.js'
import type { Event, RunResult } from '../../pipeline/events.js'
import type { BuiltInStages, Graph } from '../../pipeline/graph.js'
import { loadGraph } from '../../pipeline/load-graph.js'
import type { Plan } from '../../pipeline/plan.js'
import { planGraph } from '../../pipeline/planning.js'
import { rng } from '../../pipeline/random.js'
import { runGraph } from '../../pipeline/run.js'
import { fakeOps } from './fake.js'
import { calls, hooks, stages } from './toys.js'

/** In memory where the system has such a folder: a run stores many small files and waits for the disk after each. */
export const folder = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'pipe-run-'))
t.teardown(() => rm(folder, { recursive: true }))
let count = 0
export const newOut = (): string => join(folder, `out-${count++}`)
t.beforeEach(() => {
  for (const name of Object.keys(calls)) delete calls[name]
  delete hooks.onRow
})

export type Options = Partial<RunOptions> & { stages?: BuiltInStages; set?: string[]; seed?: number; name?: string; heard?: Event[] }
export const line = [{ use: 'numbers', count: 12 }, { use: 'scale' }, { use: 'sum' }, { use: 'total' }]

const load = async (list: unknown[], { seed = 0, set = [], name = 'toy', stages: builtIn = stages }: Options): Promise<Graph> => {
  const file = join(folder, 'graph.json')
  await writeFile(file, JSON.stringify({ name, seed, stages: list }))
  return loadGraph(file, { stages: builtIn, set })
}
export const run = async (list: unknown[], out: string, o: Options = {}): Promise<RunResult & { events: Event[]; live: number }> => {
  const graph = await load(list, o)
  const events = new Subject<Event>()
  const seen: Event[] = []
  events.subscribe(event => {
    seen.push(event)
    o.heard?.push(event)
  })
  const ops = o.ops ?? fakeOps()
  const result = await runGraph(graph, { memory: 1e9, ...o, out, ops, events })
  return { ...result, events: seen, live: [ops, ...(o.others ?? [])].reduce((sum, { device }) => sum + device.liveBytes, 0) }
}
export const plan = async (list: unknown[], out: string, o: Options = {}): Promise<Plan> =>
  planGraph(await load(list, o), { memory: 1e9, ...o, out, ops: o.ops ?? fakeOps() })
export const actions = (p: Plan): Record<string, string> => Object.fromEntries(p.stages.map(stage => [stage.id, stage.action]))

/** What `line` and its like give for n rows of 8, or of `size`. */
export const expected = (n: number, by = 2, seed = 0, size = 8): number => {
  let total = 0
  for (let i = 0; i < n; i++)
    total += rng(seed, 'x', i)
      .normal(size)
      .map(v => Math.fround(v * by))
      .reduce((a, b) => a + b, 0)
  return total
}
export const failure = async (promise: Promise<unknown>): Promise<PipeError> => {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  )
  if (!(error instanceof PipeError)) throw error ?? new Error('it did not fail')
  return error
}
export const parquets = async (out: string): Promise<string[]> =>
  (await readdir(join(out, 'cache'), { recursive: true })).filter(file => file.endsWith('.parquet')).sort()
