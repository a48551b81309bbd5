/** A stage that gives nothing: for whom the run waits is said, and where nothing can come any more, the run ends and names it. */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { mock } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Event } from '../../pipeline/events.js'
import { folder, newOut, run } from './harness.js'
import { hooks } from './toys.js'

let graphs = 0
/** A run in a process of its own: its standard error and exit code. `hang`: the stage that never settles the promise of row 2. */
const inProcess = async (stages: readonly unknown[], out: string, how: readonly string[]): Promise<{ code: unknown; stderr: string }> => {
  const graph = join(folder, `stuck-${graphs++}.json`)
  await writeFile(graph, JSON.stringify({ name: 'toy', stages }))
  return new Promise(resolve =>
    execFile(process.execPath, [fileURLToPath(new URL('toy-run.js', import.meta.url)), graph, out, ...how], (error, _, stderr) =>
      resolve({ code: error?.code ?? 0, stderr }),
    ),
  )
}
const told = (where: string): RegExp =>
  new RegExp(
    `^${where}\\n {2}It neither gives what is waited for nor ends, and nothing is under way that could change that: the run would wait for ever\\.\\n`,
  )

t.test('nothing can come any more: the run ends with a sentence that names the stage', async t => {
  const line = [{ use: 'numbers', count: 6 }, { use: 'scale' }, { use: 'live' }, { use: 'gather' }, { use: 'total' }]
  const ends = async (stage: string, where: string): Promise<void> => {
    const out = newOut()
    const { code, stderr } = await inProcess(line, out, ['hang', stage])
    t.match(stderr, told(where))
    t.equal(code, 1, stage)
    t.notOk(
      readdirSync(out, { recursive: true }).some(name => /tmp$|lock$/.test(String(name))),
      'no lock and nothing half done is left',
    )
  }
  await ends('scale', 'scale {2}b1')
  await ends('gather', 'gather')
})

t.test('what is half written goes with the process', async t => {
  const out = newOut()
  const { code } = await inProcess([{ use: 'numbers', count: 4, size: 20_000 }, { use: 'scale' }], out, ['leave', 'scale'])
  t.equal(code, 130)
  const names = readdirSync(out, { recursive: true }).map(String)
  t.ok(
    names.some(name => name.endsWith('.parquet')),
    'it was at work',
  )
  t.strictSame(
    names.filter(name => /tmp$|lock$/.test(name)),
    [],
  )
})

t.test('after half a minute in which nothing was heard it is said for whom the run waits, and less and less often', async t => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  const heard: Event[] = []
  let goOn = (): void => {}
  hooks.onRow = (stage, { i }) => (stage === 'scale' && i === 2 ? new Promise(go => (goOn = go)) : undefined)
  const running = run([{ use: 'numbers', count: 4 }, { use: 'scale' }, { use: 'sum' }, { use: 'total' }], newOut(), { heard })
  const waits = (): unknown[] => heard.flatMap(event => (event.kind === 'waiting' ? [[event.stage, event.batch, event.silentSeconds]] : []))
  while (goOn.length === 0 || !heard.some(event => event.kind === 'batch-finished' && event.stage === 'scale')) await setImmediate()
  for (let i = 0; i < 20; i++) await setImmediate()
  mock.timers.tick(29_000)
  t.strictSame(waits(), [])
  mock.timers.tick(2_000)
  t.strictSame(waits(), [['scale', 'b1', 30]])
  mock.timers.tick(100_000)
  t.strictSame(waits().slice(1), [
    ['scale', 'b1', 60],
    ['scale', 'b1', 120],
  ])
  goOn()
  t.equal((await running).results.total !== undefined, true)
  t.equal(waits().length, 3)
})
