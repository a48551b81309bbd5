import { access, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Subject } from 'rxjs'
import t from 'tap'
import { PipeError } from '../../pipeline/error.js'
import type { RunOptions } from '../../pipeline/engine.js'
import type { Event, RunResult } from '../../pipeline/events.js'
import { type BuiltInStages, loadGraph } from '../../pipeline/graph.js'
import { type Plan, planGraph } from '../../pipeline/plan.js'
import { rng } from '../../pipeline/random.js'
import { runGraph } from '../../pipeline/run.js'
import { fakeOps } from './fake.js'
import { calls, hooks, stages } from './toys.js'

const folder = await mkdtemp(join(tmpdir(), 'pipe-run-'))
t.teardown(() => rm(folder, { recursive: true }))
let count = 0
const newOut = (): string => join(folder, `out-${count++}`)
t.beforeEach(() => {
  for (const name of Object.keys(calls)) delete calls[name]
  delete hooks.onRow
})

type Options = Partial<RunOptions> & { stages?: BuiltInStages; set?: string[]; seed?: number }
const line = [{ use: 'numbers', count: 12 }, { use: 'scale' }, { use: 'sum' }, { use: 'total' }]
const load = async (list: unknown[], { seed = 0, set = [], stages: builtIn = stages }: Options) => {
  const file = join(folder, 'graph.json')
  await writeFile(file, JSON.stringify({ name: 'toy', seed, stages: list }))
  return loadGraph(file, { stages: builtIn, set })
}
const run = async (list: unknown[], out: string, o: Options = {}): Promise<RunResult & { events: Event[]; live: number }> => {
  const graph = await load(list, o)
  const events = new Subject<Event>()
  const seen: Event[] = []
  events.subscribe(event => seen.push(event))
  const ops = o.ops ?? fakeOps()
  const result = await runGraph(graph, { memory: 1e9, ...o, out, ops, events })
  return { ...result, events: seen, live: ops.device.liveBytes }
}
const plan = async (list: unknown[], out: string, o: Options = {}): Promise<Plan> => planGraph(await load(list, o), { memory: 1e9, ...o, out, ops: o.ops ?? fakeOps() })
const actions = (p: Plan): Record<string, string> => Object.fromEntries(p.stages.map(stage => [stage.id, stage.action]))
const expected = (n: number, by = 2, seed = 0): number => {
  let total = 0
  for (let i = 0; i < n; i++) total += rng(seed, 'x', i).normal(8).map(v => Math.fround(v * by)).reduce((a, b) => a + b, 0)
  return total
}
const failure = async (promise: Promise<unknown>): Promise<PipeError> => {
  const error = await promise.then(() => undefined, (e: unknown) => e)
  if (!(error instanceof PipeError)) throw error ?? new Error('it did not fail')
  return error
}
const parquets = async (out: string): Promise<string[]> =>
  (await readdir(join(out, 'cache'), { recursive: true })).filter(file => file.endsWith('.parquet')).sort()

t.test('a line runs, and the second time nothing does', async t => {
  const out = newOut()
  const first = await run(line, out)
  t.ok(Math.abs((first.results.total as number) - expected(12)) < 1e-3, `${first.results.total} is ${expected(12)}`)
  t.same(calls, { numbers: 12, scale: 12, sum: 12, total: 1 })
  t.equal(first.live, 0, 'no tensor is left')
  t.same(first.stages.map(({ id, batches }) => [id, batches]), [
    ['numbers', { run: 6, cached: 0 }], ['scale', { run: 6, cached: 0 }], ['sum', { run: 6, cached: 0 }], ['total', { run: 1, cached: 0 }],
  ])
  t.same(first.tables, [{ stage: 'total', columns: ['total'], rows: [['sum', (first.results.total as number).toFixed(4)]] }])
  const written = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'))
  t.same(Object.keys(written), ['graph', 'total', 'seconds', 'peakRssBytes', 'stages'])
  t.equal(written.total, first.results.total)

  t.same(Object.values(actions(await plan(line, out))), ['cached', 'cached', 'cached', 'cached'])
  const second = await run(line, out)
  t.equal(calls.numbers, 12, 'nothing was called again')
  t.same(calls, { numbers: 12, scale: 12, sum: 12, total: 1 })
  t.equal(second.results.total, first.results.total)
  t.same(second.stages.map(stage => stage.batches.cached), [6, 6, 6, 1])
})

t.test('a parameter changed runs its stage and what is below, nothing above', async t => {
  const out = newOut()
  await run(line, out)
  const changed = ['scale.by=5']
  const before = await plan(line, out, { set: changed })
  t.same(actions(before), { numbers: 'cached', scale: 'run', sum: 'run', total: 'run' })
  t.same(before.stages.map(stage => stage.why), [[], ['by: 2 → 5'], ['scale runs'], ['sum runs']])
  t.ok(before.stages[1]?.seconds !== undefined, 'an estimate from the last run')
  const result = await run(line, out, { set: changed })
  t.same(calls, { numbers: 12, scale: 24, sum: 24, total: 2 })
  t.ok(Math.abs((result.results.total as number) - expected(12, 5)) < 1e-3)
  await run(line, out)
  t.same(calls, { numbers: 12, scale: 24, sum: 24, total: 2 }, 'back again: what was stored is still there')
  const seeded = await plan(line, out, { seed: 1 })
  t.same(seeded.stages[0]?.why, ['seed: 0 → 1'])
})

t.test('a stop keeps what is finished, and the next run computes the rest', async t => {
  const whole = newOut()
  await run(line, whole)
  const files = await parquets(whole)
  for (const [stage, stops] of [['numbers', [5]], ['scale', [1, 4, 10]], ['sum', [7]]] as const) {
    for (const stopAt of stops) {
      const out = newOut()
      for (const name of Object.keys(calls)) delete calls[name]
      const abort = new AbortController()
      hooks.onRow = (name, row) => { if (name === stage && row.i === stopAt) abort.abort() }
      const error = await failure(run(line, out, { signal: abort.signal }))
      t.equal(error.code, 'stopped')
      t.equal(error.exitCode, 130)
      t.match(error.text, /the same command goes on from here/)
      delete hooks.onRow
      const stored = (await parquets(out)).length
      const again = await run(line, out)
      const computed = again.stages.reduce((sum, { batches }) => sum + batches.run, 0)
      t.equal(computed + stored, files.length, `${stage} ${stopAt}: ${stored} stored, ${computed} computed`)
      t.same(await parquets(out), files)
      for (const file of files) t.ok((await readFile(join(out, 'cache', file))).equals(await readFile(join(whole, 'cache', file))), 'the same bytes')
    }
  }
})

t.test('order of completion does not matter', async t => {
  const out = newOut()
  const first = await run(line, out)
  const slow = newOut()
  hooks.onRow = async (_, row) => { await new Promise(resolve => setTimeout(resolve, row.i === 0 ? 30 : 0)) }
  const second = await run(line, slow)
  t.equal(second.results.total, first.results.total)
  t.same(await parquets(slow), await parquets(out))
})

t.test('a failure tells where, keeps what is finished, and the next run goes on', async t => {
  const out = newOut()
  hooks.onRow = (stage, row) => { if (stage === 'scale' && row.i === 6) throw new Error('row 6 is bad') }
  const error = await failure(run(line, out))
  t.match(error.text, /^scale {2}b3\n {2}row 6 is bad\n {2}The \d+ finished batches are kept; the same command goes on from here\.$/)
  t.equal(error.exitCode, 1)
  t.match((error.cause as Error).message, 'row 6 is bad', 'the stack is kept')
  delete hooks.onRow
  const again = await run(line, out)
  t.ok((again.stages[1]?.batches.cached ?? 0) >= 1)
  t.ok(Math.abs((again.results.total as number) - expected(12)) < 1e-3)
})

t.test('live tensors: folded, never stored; resumed by what is wanted', async t => {
  const list = [{ use: 'numbers', count: 8 }, { use: 'live' }, { use: 'gather' }, { use: 'total' }]
  const out = newOut()
  const first = await run(list, out)
  t.ok(Math.abs((first.results.total as number) - expected(8, 1)) < 1e-3, `${first.results.total} is ${expected(8, 1)}`)
  t.equal(first.live, 0)
  t.same(calls, { numbers: 8, live: 8, gather: 8, total: 1 })
  const abort = new AbortController()
  const stopped = newOut()
  hooks.onRow = (name, row) => { if (name === 'gather' && row.i === 5) abort.abort() }
  await failure(run(list, stopped, { signal: abort.signal }))
  delete hooks.onRow
  calls.live = 0
  const again = await run(list, stopped)
  t.equal(again.results.total, first.results.total)
  t.ok(calls.live > 0 && calls.live < 8, `${calls.live} of 8 rows were made again`)
})

t.test('branches and merges', async t => {
  const out = newOut()
  const list = [
    { use: 'numbers', count: 6, id: 'n' }, { use: 'scale', id: 'two' }, { use: 'scale', id: 'three', by: 3, from: 'n' },
    { use: 'sum', from: ['two', 'three'] }, { use: 'total' },
  ]
  const { results, stages: usage } = await run(list, out)
  t.ok(Math.abs((results.total as number) - expected(6, 2) - expected(6, 3)) < 1e-3)
  t.equal(calls.numbers, 6, 'the common stage ran once')
  t.equal(usage.find(stage => stage.id === 'sum')?.batches.run, 6, 'three batches from each')
})

t.test('peak memory stays under the limit, for 300 tensors', async t => {
  const ops = fakeOps()
  const size = 256
  const memory = 16 * 4 * size
  await run([{ use: 'numbers', count: 300, size, rows: 6 }, { use: 'live' }, { use: 'gather' }, { use: 'total' }], newOut(), { ops, memory })
  t.ok(ops.device.peakBytes <= memory, `${ops.device.peakBytes} of ${memory}`)
  t.ok(ops.device.peakBytes > memory / 8)
  t.equal(ops.device.liveBytes, 0)
})

t.test('damage: a flipped byte is found, told, and computed again', async t => {
  const out = newOut()
  const first = await run(line, out)
  for (const where of ['data', 'footer', 'cut']) {
    const files = await parquets(out)
    const sums: string[] = []
    for (const file of files) if ((await readFile(join(out, 'cache', file))).includes('"stage":"scale"')) sums.push(file)
    const path = join(out, 'cache', sums[0] as string)
    const good = await readFile(path)
    const bad = where === 'cut' ? good.subarray(0, -5) : Buffer.from(good)
    if (where !== 'cut') bad[where === 'data' ? 200 : bad.length - 40] = (bad[where === 'data' ? 200 : bad.length - 40] as number) ^ 4
    await writeFile(path, bad)
    calls.scale = 0
    const again = await run(line, out, { part: { force: ['sum'] } })
    t.equal(calls.scale, 2, `${where}: one batch of scale ${JSON.stringify(calls)} ${path}`)
    t.match(again.events.filter(event => event.kind === 'note').map(event => (event as { text: string }).text).join(), /damaged/)
    t.equal(again.results.total, first.results.total)
    t.ok((await readFile(path)).equals(good), 'as it was')
  }
})

t.test('parts: --to, --from, --force', async t => {
  const out = newOut()
  const toScale = await run(line, out, { part: { to: 'scale' } })
  t.same(toScale.stages.map(stage => stage.id), ['numbers', 'scale'])
  const error = await failure(run(line, out, { part: { from: 'total' } }))
  t.match(error.text, /--from leaves sum to what is stored, and 6 of its batches are not/)
  await run(line, out, { part: { from: 'sum' } })
  t.same(calls, { numbers: 12, scale: 12, sum: 12, total: 1 })
  await run(line, out, { part: { force: ['sum'] } })
  t.same(calls, { numbers: 12, scale: 12, sum: 24, total: 1 }, 'only what was forced: its results did not change')
  t.match((await failure(run(line, out, { part: { to: 'sun' } }))).text, /No stage is called "sun"\. Did you mean "sum"\?/)
})

t.test('input files: their content is what counts', async t => {
  const out = newOut()
  const file = join(folder, 'a.txt')
  await writeFile(file, 'one\ntwo')
  const list = [{ use: 'lines', text: file }]
  await run(list, out)
  await run(list, out)
  t.equal(calls.lines, 1)
  await writeFile(file, 'one\nthree!')
  t.same((await plan(list, out)).stages[0]?.why, ['text: a.txt was changed'])
  await run(list, out)
  t.equal(calls.lines, 2)
  await writeFile(join(folder, 'b.txt'), 'one\ntwo')
  await run(list, out, { set: [`lines.text=${join(folder, 'b.txt')}`] })
  t.equal(calls.lines, 2, 'another name, the first content')
  await rm(file)
  t.match((await failure(run(list, out))).text, /stages\[0\] lines {2}text\n {2}There is no such file: .*a\.txt/)
})

t.test('a second run in the same folder is told who is there', async t => {
  const out = newOut()
  let second: Promise<PipeError> | undefined
  hooks.onRow = () => { second ??= failure(run(line, out)) }
  await run(line, out)
  const error = await (second as unknown as Promise<PipeError>)
  t.equal(error.code, 'locked')
  t.match(error.text, new RegExp(`Process ${process.pid}, since 20..-..-.. ..:..:.. UTC, is working in this folder`))
  await t.rejects(access(join(out, '.lock')), 'the lock is gone afterwards')
  await writeFile(join(out, '.lock'), JSON.stringify({ pid: process.pid, started: 'another boot', since: '2020-01-01T00:00:00' }))
  await run(line, out)
  t.pass('a lock left by a dead process is taken over')
})

t.test('events tell the whole story, also in events.jsonl', async t => {
  const out = newOut()
  const { events } = await run(line, out)
  const kinds = events.map(event => event.kind)
  t.equal(kinds[0], 'plan')
  t.equal(kinds.at(-1), 'result')
  t.equal(kinds.filter(kind => kind === 'batch-finished').length, 19)
  t.equal(kinds.filter(kind => kind === 'stage-started').length, 4)
  t.equal(kinds.filter(kind => kind === 'stage-finished').length, 4)
  const lines = (await readFile(join(out, 'events.jsonl'), 'utf8')).trim().split('\n').map(text => JSON.parse(text) as Event)
  t.same(lines.map(event => event.kind), kinds)
})
