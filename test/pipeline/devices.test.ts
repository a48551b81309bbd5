/** Several devices: the same bytes, and what becomes of a batch whose device has no memory, or is gone. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { openDevices } from '../../pipeline/commands/open.js'
import { type AnyStage, defineStage, each } from '../../pipeline/define.js'
import type { Event } from '../../pipeline/events.js'
import { FakeDevice, fakeOps } from './fake.js'
import { expected, failure, line, newOut, type Options, parquets, run } from './harness.js'
import { calls, hooks, numbersTable, withStages } from './toys.js'

const devices = (...names: string[]): Pick<Options, 'others'> & { ops: ReturnType<typeof fakeOps> } => {
  const [ops, ...others] = names.map(name => fakeOps(new FakeDevice(name)))
  return { ops: ops as ReturnType<typeof fakeOps>, others }
}
const coded = (code: string, message: string): Error => Object.assign(new Error(message), { code })
const memoryOut = (): Error => coded('ERR_DEVICE_MEMORY', 'add: out of device memory on b: 5.0 MB are needed, 1.0 of 9.0 MB are free.')
const lost = (): Error => coded('ERR_DEVICE_LOST', 'the device was lost (unspecified launch failure).')
const contents = async (out: string): Promise<Record<string, string>> =>
  Object.fromEntries(await Promise.all((await parquets(out)).map(async file => [file, await readFile(join(out, 'cache', file), 'base64')])))
const right = (result: { results: Readonly<Record<string, unknown>> }, n = 12): boolean =>
  Math.abs((result.results.total as number) - expected(n)) < 1e-3
/** Batches of a stage that had begun on the device and were not over, at each of its beginnings there. */
const beside = (events: readonly Event[], stage: string, device: string): Record<string, string[][]> => {
  const open = new Set<string>()
  const seen: Record<string, string[][]> = {}
  for (const event of events) {
    if (event.kind === 'batch-started' && event.stage === stage && event.device === device) {
      seen[event.batch] = [...(seen[event.batch] ?? []), [...open]]
      open.add(event.batch)
    }
    if (event.kind === 'batch-finished' && event.stage === stage && event.device === device) open.delete(event.batch)
    if (event.kind === 'note' && event.stage === stage) open.delete(event.batch ?? '')
  }
  return seen
}

t.test('the same bytes on one, two and three devices, and all have work', async t => {
  const one = newOut()
  await run(line, one)
  for (const names of [
    ['a', 'b'],
    ['a', 'b', 'c'],
    ['a', 'a'],
  ]) {
    const out = newOut()
    hooks.onRow = () => new Promise(resolve => setTimeout(resolve, 1))
    const result = await run(line, out, devices(...names))
    t.same(await contents(out), await contents(one))
    t.equal(result.live, 0)
    t.same(
      result.devices.map(({ device }) => device),
      names[1] === 'a' ? ['a', 'a (2)'] : names,
    )
    for (const { device, batches, seconds } of result.devices) t.ok(batches > 1 && seconds > 0 && seconds < result.seconds, device)
    t.equal(
      result.devices.reduce((sum, { batches }) => sum + batches, 0),
      12,
      'of scale and sum, 6 each',
    )
    const written = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'))
    t.same(written.devices, JSON.parse(JSON.stringify(result.devices)))
    t.ok(
      result.events.every(event => event.kind !== 'batch-finished' || event.cached || names.includes((event.device ?? '').slice(0, 1))),
      'events say where',
    )
  }
})

t.test('--memory is the bound of each device', async t => {
  const o = devices('a', 'b')
  const size = 256
  const memory = 8 * 4 * size // a batch of two rows is let in with three times its bytes
  await run([{ use: 'numbers', count: 40, size }, { use: 'scale' }], newOut(), { ...o, memory })
  for (const { device } of [o.ops, ...(o.others ?? [])]) {
    const { peakBytes } = device
    t.ok(peakBytes > 0 && peakBytes <= memory, `${peakBytes} of ${memory}`)
  }
})

t.test('stopped on three devices, it goes on with one', async t => {
  const one = newOut()
  await run(line, one)
  const out = newOut()
  const abort = new AbortController()
  hooks.onRow = (stage, { i }) => {
    if (stage === 'scale' && i === 8) abort.abort()
  }
  const error = await failure(run(line, out, { ...devices('a', 'b', 'c'), signal: abort.signal }))
  t.equal(error.code, 'stopped')
  delete hooks.onRow
  t.ok(right(await run(line, out)))
  t.same(await contents(out), await contents(one))
})

t.test('with several devices the most work begins first, as the stages estimate it', async t => {
  const sized = defineStage({
    name: 'sized',
    version: 1,
    about: 'Says how much it is.',
    params: Type.Object({}),
    input: numbersTable,
    output: numbersTable,
    estimate: rows => ({ operations: [30, 10, 50, 20, 60, 40][Math.floor((rows[0]?.i as number) / 2)] ?? 0, memory: 1, disk: 1 }),
    operator: _ => each(async row => ({ ...row })),
  }) as AnyStage
  const list = [{ use: 'numbers', count: 12 }, { use: 'sized' }]
  const order = async (o: Options) => {
    const { events } = await run(list, newOut(), { ...o, stages: withStages(sized) })
    return events.flatMap(event => (event.kind === 'batch-started' && event.stage === 'sized' ? [event.batch] : []))
  }
  t.same(await order({}), ['b0', 'b1', 'b2', 'b3', 'b4', 'b5'], 'one device: as they come')
  t.same((await order(devices('a', 'b'))).sort(), ['b0', 'b1', 'b2', 'b3', 'b4', 'b5'])
  t.same((await order(devices('a', 'b'))).slice(0, 2).sort(), ['b2', 'b4'])
  t.same((await order(devices('a', 'b'))).at(-1), 'b1')
})

t.test('memory out: once more on that device, with nothing beside it', async t => {
  for (const names of [['a'], ['a', 'b'], ['b', 'a']]) {
    const out = newOut()
    let failures = 0
    hooks.onRow = async (stage, { i }) => {
      await new Promise(resolve => setTimeout(resolve, 1))
      if (stage === 'scale' && i === 4 && failures++ === 0) throw memoryOut()
    }
    const result = await run(line, out, devices(...names))
    t.ok(right(result))
    t.equal(failures, 2)
    const note = result.events.find(event => event.kind === 'note')
    t.match(note, { stage: 'scale', batch: 'b2', text: /^memory was out on [ab]; once more, with nothing beside it$/ })
    const where = /on ([ab]);/.exec((note as { text: string }).text)?.[1] as string
    const tries = beside(result.events, 'scale', where)
    t.same(tries.b2?.[1], [], 'alone')
    t.equal(result.live, 0)
  }
})

t.test('memory out twice: the others are finished first, then it is told, and the same command goes on', async t => {
  for (const names of [['a'], ['a', 'b']]) {
    const out = newOut()
    hooks.onRow = (stage, { i }) => {
      if (stage === 'scale' && (i === 4 || i === 9)) throw memoryOut()
    }
    const error = await failure(run(line, out, devices(...names)))
    t.equal(error.code, 'memory')
    t.equal(error.exitCode, 1)
    const [first, second, last] = error.text.split('\n\n').map(text => text.replaceAll('\n', ' '))
    t.match([first, second].sort(), [
      /^scale {2}b2 {3}add: out of device memory on b: 5\.0 MB are needed, 1\.0 of 9\.0 MB are free\.$/,
      /^scale {2}b4 {3}add: out of device memory/,
    ])
    t.match(
      last,
      /^Each was tried twice, .*all other batches are finished\. The 10 finished batches are kept; the same command goes on from here\.$/,
    )
    t.match((error.cause as Error).message, /out of device memory/)
    t.equal(calls.scale, 8 + 2 * 1 + 2 * 2, 'rows of the four others, and two tries each')
    delete hooks.onRow
    calls.scale = 0
    t.ok(right(await run(line, out, devices('a'))))
    t.equal(calls.scale, 4, 'the two batches that were missing')
    for (const name of Object.keys(calls)) delete calls[name]
  }
})

t.test('memory out: what the failed stage forgot is freed before the second try', async t => {
  const seen: number[] = []
  const forgetful = defineStage({
    name: 'forgetful',
    version: 1,
    about: 'Forgets a megabyte when it fails.',
    params: Type.Object({}),
    input: numbersTable,
    output: numbersTable,
    operator: (_, { ops }) =>
      each(async row => {
        seen.push(ops.device.liveBytes)
        if (seen.length === 1) {
          ops.zeros('u8', [1e6])
          throw memoryOut()
        }
        return { ...row }
      }),
  }) as AnyStage
  const ops = await openBackend('cpu')
  await run([{ use: 'numbers', count: 2 }, { use: 'forgetful' }], newOut(), { ops, stages: withStages(forgetful) })
  t.equal(seen.length, 3, 'two rows, the first twice')
  t.ok((seen[1] ?? 1e6) < 1e6, `${seen} bytes are alive when a row begins`)
})

t.test('a device is lost: its batches move to the others', async t => {
  const one = newOut()
  await run(line, one)
  const out = newOut()
  let rows = 0
  hooks.onRow = async (stage, _, device) => {
    await new Promise(resolve => setTimeout(resolve, 1))
    if (stage === 'scale' && device === 'b' && ++rows >= 3) throw lost()
  }
  const result = await run(line, out, devices('a', 'b', 'c'))
  t.ok(right(result))
  t.same(await contents(out), await contents(one))
  const told = result.events.filter(event => event.kind === 'device-lost')
  t.equal(told.length, 1, 'told once')
  t.match(told[0], { device: 'b', text: /^b is not used any more, the other devices go on: the device was lost/ })
  t.match(
    result.devices.map(({ isLost }) => isLost),
    [undefined, true, undefined],
  )
  t.ok(
    result.events.every(event => event.kind !== 'batch-started' || event.stage !== 'sum' || event.device !== 'b'),
    'nothing is given to it any more',
  )
})

t.test('the last device is lost: one sentence, and the same command goes on', async t => {
  const out = newOut()
  hooks.onRow = (stage, { i }) => {
    if (stage === 'scale' && i >= 6) throw lost()
  }
  const error = await failure(run(line, out, devices('a', 'b')))
  t.match(
    error.text,
    /^scale {2}b\d\n {2}the device was lost \(.*\)\.\n {2}The \d+ finished batches are kept; the same command goes on from here\.$/,
  )
  delete hooks.onRow
  t.ok(right(await run(line, out)))
})

t.test('the device of a stage that sees the whole stream is lost: another goes on from what is stored', async t => {
  const list = [{ use: 'numbers', count: 8 }, { use: 'live' }, { use: 'gather' }, { use: 'total' }]
  const whole = await run(list, newOut())
  const out = newOut()
  hooks.onRow = (stage, { i }, device) => {
    if (stage === 'gather' && i === 5 && device === 'a') throw lost()
  }
  const o = devices('a', 'b')
  const result = await run(list, out, o)
  t.equal(result.results.total, whole.results.total)
  t.match(
    result.devices.map(({ isLost }) => isLost),
    [true, undefined],
  )
  t.equal(o.others?.[0]?.device.liveBytes, 0)
  hooks.onRow = stage => {
    if (stage === 'gather') throw lost()
  }
  t.match((await failure(run(list, newOut(), devices('a', 'b')))).text, /the device was lost/, 'both')
})

t.test('any other failure ends the run at once', async t => {
  const heard: Event[] = []
  hooks.onRow = (stage, { i }) => {
    if (stage === 'scale' && i === 0) throw new Error('row 0 is bad')
  }
  const error = await failure(run([{ use: 'numbers', count: 60 }, ...line.slice(1)], newOut(), { ...devices('a', 'b'), heard }))
  t.match(error.text, /^scale {2}b0\n {2}row 0 is bad\n/)
  t.ok((calls.scale ?? 0) < 40, `${calls.scale} of 60 rows`)
  t.equal(heard.at(-1)?.kind, 'failed')
})

t.test('--device: a list, of one kind', async t => {
  const openBackend = async (name: string) => {
    if (!/^(cpu|cuda:\d)$/.test(name)) throw new Error(`unknown device "${name}"`)
    return fakeOps(Object.assign(new FakeDevice(name), { kind: name.slice(0, name.indexOf(':') + 1 || 9).replace(':', '') }))
  }
  const names = async (list: string) => (await openDevices({ openBackend }, list)).map(({ device }) => device.name)
  t.same(await names('cpu'), ['cpu'])
  t.same(await names('cuda:0, cuda:1'), ['cuda:0', 'cuda:1'])
  t.same(await names('cpu,cpu'), ['cpu', 'cpu'])
  const error = await failure(openDevices({ openBackend }, 'cuda:0,cpu'))
  t.match(
    error.text,
    /^--device cuda:0,cpu\n {2}cuda:0 and cpu can't share a run: their results may differ in the last place\.\n {2}Name devices of one kind/,
  )
  await t.rejects(names('cpu,'), /unknown device ""/)
})
