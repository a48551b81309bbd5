import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import { filter } from 'rxjs'
import t from 'tap'
import {
  type AnyStage,
  defineStage,
  defineTable,
  directory,
  each,
  fileTensor,
  fold,
  nothing,
  type Row,
  spread,
  tensor,
  u32,
  utf8,
} from '../../pipeline/define.js'
import { PipeError } from '../../pipeline/error.js'
import { Progress } from '../../pipeline/progress.js'
import { fakeOps } from './fake.js'
import { expected, failure, line, newOut, parquets, plan, run } from './harness.js'
import { calls, hooks, numbersTable, stages, withStages } from './toys.js'

t.test('a stop keeps what is finished, and the next run computes the rest', async t => {
  const whole = newOut()
  await run(line, whole)
  const files = await parquets(whole)
  for (const [stage, stops] of [
    ['numbers', [5]],
    ['scale', [1, 4, 10]],
    ['sum', [7]],
  ] as const) {
    for (const stopAt of stops) {
      const out = newOut()
      for (const name of Object.keys(calls)) delete calls[name]
      const abort = new AbortController()
      hooks.onRow = (name, row) => {
        if (name === stage && row.i === stopAt) abort.abort()
      }
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
      for (const file of files)
        t.ok((await readFile(join(out, 'cache', file))).equals(await readFile(join(whole, 'cache', file))), 'the same bytes')
    }
  }
})

t.test('order of completion does not matter', async t => {
  const out = newOut()
  const first = await run(line, out)
  const slow = newOut()
  hooks.onRow = async (_, row) => {
    await new Promise(resolve => setTimeout(resolve, row.i === 0 ? 30 : 0))
  }
  const second = await run(line, slow)
  t.equal(second.results.total, first.results.total)
  t.same(await parquets(slow), await parquets(out))
})

t.test('a failure tells where, keeps what is finished, and the next run goes on', async t => {
  const out = newOut()
  hooks.onRow = (stage, row) => {
    if (stage === 'scale' && row.i === 6) throw new Error('row 6 is bad')
  }
  const error = await failure(run(line, out))
  t.match(
    error.text,
    /^scale {2}b3\n {2}row 6 is bad\n {2}Where in the code: add --verbose\.\n {2}The \d+ finished batches are kept; the same command goes on from here\.$/,
  )
  t.equal(error.exitCode, 1)
  t.match((error.cause as Error).message, 'row 6 is bad', 'the stack is kept')
  hooks.onRow = (stage, row) => {
    if (stage === 'scale' && row.i === 6) throw new PipeError('input', { message: 'row 6 is none.' })
  }
  t.match(
    (await failure(run(line, newOut()))).text,
    /\n {2}row 6 is none\.\n {2}The \d+ finished batches are kept; once that is put right, the same command goes on from here\.$/,
  )
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
  hooks.onRow = (name, row) => {
    if (name === 'gather' && row.i === 5) abort.abort()
  }
  await failure(run(list, stopped, { signal: abort.signal }))
  delete hooks.onRow
  calls.live = 0
  const again = await run(list, stopped)
  t.equal(again.results.total, first.results.total)
  t.ok(calls.live > 0 && calls.live < 8, `${calls.live} of 8 rows were made again`)
})

t.test('inside a batch tensors stay on the device, and may be opened more than once', async t => {
  const ops = fakeOps()
  const inline = { ...(await stages.scale?.())?.default, name: 'inline', cache: false } as AnyStage
  const twice = defineStage({
    name: 'twice',
    version: 1,
    about: 'x + x.',
    params: Type.Object({}),
    input: numbersTable,
    output: numbersTable,
    operator: (_, { ops }) =>
      each(async row => {
        using a = await row.x.open(ops)
        using b = await row.x.open(ops)
        const [x, y] = [new Float32Array((await a.read()).buffer), new Float32Array((await b.read()).buffer)]
        const sum = x.map((value, i) => value + (y[i] as number))
        return { ...row, x: ops.device.upload(new Uint8Array(sum.buffer), 'f32', a.shape) }
      }),
  })
  const list = [{ use: 'numbers', count: 6 }, { use: 'inline' }, { use: 'twice' }, { use: 'sum' }, { use: 'total' }]
  const { results, live } = await run(list, newOut(), { ops, stages: withStages(inline, twice) })
  t.ok(Math.abs((results.total as number) - expected(6, 4)) < 1e-3)
  t.equal(live, 0)
  t.equal(calls.scale, 6)
})

t.test('peak memory stays under the limit, for 300 tensors', async t => {
  const ops = fakeOps()
  const size = 256
  const memory = 16 * 4 * size
  await run([{ use: 'numbers', count: 300, size, rows: 6 }, { use: 'live' }, { use: 'gather' }, { use: 'total' }], newOut(), {
    ops,
    memory,
  })
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
    t.match(
      again.events
        .filter(event => event.kind === 'note')
        .map(event => (event as { text: string }).text)
        .join(),
      /damaged/,
    )
    t.equal(again.results.total, first.results.total)
    t.ok((await readFile(path)).equals(good), 'as it was')
  }
})

t.test('damage that is found while reading: a stage runs that the plan left out, and is told', async t => {
  const out = newOut()
  const first = await run(line, out)
  let damaged = false
  for (const file of await parquets(out)) {
    const path = join(out, 'cache', file)
    const bytes = await readFile(path)
    if (bytes.includes('"stage":"numbers"')) await rm(path)
    if (!bytes.includes('"stage":"scale"') || damaged) continue
    bytes[200]! ^= 4
    await writeFile(path, bytes)
    damaged = true
  }
  const again = await run(line, out, { part: { force: ['sum'] } })
  t.equal(again.results.total, first.results.total)
  let told = ''
  const progress = new Progress({ write: text => (told += text) }, { color: false })
  for (const event of again.events) progress.next(event)
  t.match(told, /damaged: [\s\S]*^numbers: started\n/m)
})

t.test('damage to a checkpoint: the stage begins again without it, in the same run', async t => {
  const out = newOut()
  let fails = true
  const half = defineStage({
    name: 'half',
    version: 1,
    about: 'Goes on from what it has saved.',
    params: Type.Object({}),
    input: numbersTable,
    output: numbersTable,
    scope: 'stream',
    batch: ({ name }) => name,
    operator: (_, { checkpoint, ops }) =>
      each(async row => {
        const name = `at ${row.i}`
        if ((await checkpoint.list()).includes(name)) {
          if ((await checkpoint.load(name)) === undefined) throw new Error(`${name} is gone`)
        } else {
          using x = await row.x.open(ops)
          await checkpoint.save(name, {}, { x })
        }
        if (fails && row.i === 3) throw new Error('no power')
        return { ...row }
      }),
  })
  const list = [{ use: 'numbers', count: 6 }, { use: 'half' }, { use: 'sum' }, { use: 'total' }]
  const o = { stages: withStages(half) }
  await failure(run(list, out, o))
  fails = false
  const saved = (await parquets(out)).filter(file => file.startsWith('checkpoints'))
  t.equal(saved.length, 4)
  const path = join(out, 'cache', saved[1] as string)
  const bytes = await readFile(path)
  bytes[200]! ^= 4
  await writeFile(path, bytes)
  const { results, events } = await run(list, out, o)
  t.ok(Math.abs((results.total as number) - expected(6, 1)) < 1e-3)
  t.equal(events.filter(event => event.kind === 'note' && /damaged/.test(event.text)).length, 1)
})

t.test('damage to the list of a stream’s batches: they are made again', async t => {
  const out = newOut()
  const first = await run(line, out)
  const folder = join(out, 'cache/streams')
  for (const name of await readdir(folder)) {
    const good = await readFile(join(folder, name), 'utf8')
    await writeFile(join(folder, name), good.replace(/"value":\["(.*?)"/, '"value":["other"'))
    t.not(await readFile(join(folder, name), 'utf8'), good)
    const again = await run(line, out, { part: { force: ['sum'] } })
    t.equal(again.results.total, first.results.total)
    t.equal(await readFile(join(folder, name), 'utf8'), good)
  }
})

t.test('what was read has been moved, and something else lies there: stored rows speak of where it is now', async t => {
  const table = defineTable('read', 1, { source: utf8('folder'), w: tensor('f32', 'n', 'a weight') })
  const reader = defineStage({
    name: 'reader',
    version: 1,
    about: 'Refers to a file.',
    params: Type.Object({ path: directory('Folder') }),
    input: nothing,
    output: table,
    scope: 'stream',
    batch: () => 'all',
    operator: ({ path }) => spread(async function* () { yield { source: path, w: fileTensor(join(path, 'w.txt'), 0, 'f32', [1]) } }),
  })
  const shower = defineStage({
    name: 'shower',
    version: 1,
    about: 'Tells what it reads.',
    params: Type.Object({ salt: Type.Integer({ default: 0 }) }),
    input: table,
    output: defineTable('shown', 1, { source: utf8('folder'), byte: u32('the first') }),
    report: ({ source, byte }) => ({ result: { source, byte }, table: { columns: [], rows: [] } }),
    operator: () => each(async ({ source, w }: Row<typeof table>) => ({ source, byte: (await w.read())[0] as number })),
  })
  const out = newOut()
  const [first, second] = [newOut(), newOut()]
  const write = async (folder: string, byte: number) => {
    await mkdir(folder)
    await writeFile(join(folder, 'w.txt'), new Uint8Array([byte, 0, 0, 0]))
  }
  const show = async (path: string, salt: number) => {
    const { results, stages: used } = await run([{ use: 'reader', path }, { use: 'shower', salt }], out, { stages: withStages(reader, shower) })
    return [results.source, results.byte, used[0]?.batches.run]
  }
  await write(first, 7)
  t.same(await show(first, 0), [first, 7, 1])
  await rename(first, second)
  t.same(await show(second, 1), [second, 7, 0], 'and is not read again')
  await write(first, 8)
  t.same(await show(second, 2), [second, 7, 0])
  t.same(await show(first, 3), [first, 8, 1])
})

t.test('a stage on the stream that leaves out what is stored already: the list of its batches has those, too', async t => {
  const out = newOut()
  let failAt = 4
  const rows = defineTable('rows', 1, { i: u32('which') })
  const trained = defineStage({
    name: 'trained',
    version: 1,
    about: 'Stops half-way at first.',
    params: Type.Object({}),
    input: numbersTable,
    output: rows,
    scope: 'stream',
    batch: ({ i }) => `t${i}`,
    operator: (_, { wanted }) => source =>
      source.pipe(
        filter(({ i }) => wanted(`t${i}`)),
        each(async ({ i }) => {
          if (i !== failAt) return { i }
          await new Promise(done => setTimeout(done, 300))
          throw new Error('no power')
        }),
      ),
  })
  const count = defineStage({
    name: 'tally',
    version: 1,
    about: 'Lists.',
    params: Type.Object({}),
    input: rows,
    output: defineTable('tallied', 1, { all: utf8('which came') }),
    scope: 'stream',
    batch: () => 'all',
    report: ({ all }) => ({ result: { all }, table: { columns: [], rows: [] } }),
    operator: () =>
      fold(
        { key: () => 'all' },
        {
          zero: () => ({ all: '' }),
          step: (state, { i }: Row<typeof rows>) => {
            state.all += i
          },
          end: ({ all }) => ({ all }),
        },
      ),
  })
  const list = [{ use: 'numbers', count: 6 }, { use: 'trained' }, { use: 'tally' }]
  const o = { stages: withStages(trained, count) }
  await failure(run(list, out, o))
  failAt = -1
  const again = await run(list, out, o)
  t.ok((again.stages.find(({ id }) => id === 'trained')?.batches.run ?? 6) < 6, 'some were stored')
  t.equal(again.results.all, '012345')
})

t.test('storing holds making back: with room for all, only a few batches are alive', async t => {
  const ops = fakeOps()
  const size = 256
  const rows = 6
  await run([{ use: 'numbers', count: 300, size, rows }, { use: 'live' }, { use: 'gather' }, { use: 'total' }], newOut(), {
    ops,
    memory: 1e9,
  })
  t.ok(ops.device.peakBytes <= 5 * rows * 4 * size, `${ops.device.peakBytes} bytes, a batch has ${rows * 4 * size}`)
})

t.test('files of a stage are made again when they are gone or another run changed them', async t => {
  const out = newOut()
  const list = [...line, { use: 'print' }, { use: 'read' }]
  const file = join(out, 'total.txt')
  const { results } = await run(list, out)
  await run(list, out, { set: ['scale.by=3'] })
  t.not(await readFile(file, 'utf8'), String(results.total))
  const again = await run(list, out)
  t.equal(await readFile(file, 'utf8'), String(results.total), 'back again, though all rows were stored')
  t.same([calls.print, calls.read, calls.total], [3, 2, 2], 'only the stage that writes the file ran')
  t.ok(again.events.every(event => event.kind !== 'stage-started' || event.stage === 'print'))
  await rm(file)
  await run(list, out)
  t.equal(calls.print, 4)
  const [why] = (await plan(list, out)).stages.flatMap(stage => stage.why)
  t.equal(why, undefined)
  await writeFile(file, 'changed')
  t.same((await plan(list, out)).stages.find(stage => stage.id === 'print')?.why, ['its files have changed or are gone'])
  await run(list, out)
  t.equal(calls.print, 5)

  const renamed = await plan(list, out, { name: 'renamed' })
  t.same(
    renamed.stages.map(({ id, why }) => [id, why]).filter(([, why]) => why?.length),
    [
      ['print', ['graph: "toy" → "renamed"']],
      ['read', ['print runs']],
    ],
    'a recipe with the old name must not stay in files',
  )
})

t.test('an op that fails while only the queue is waited for: who was at work is named', async t => {
  const ops = fakeOps()
  const out = newOut()
  await run([{ use: 'numbers', count: 4 }], out)
  // Both batches are let in one at a time; the queue fails while the second waits.
  let broken = false
  hooks.onRow = async (stage, row) => {
    if (stage !== 'scale' || row.i !== 0) return
    broken = true
    await new Promise(() => {})
  }
  const finish = ops.device.finish.bind(ops.device)
  ops.device.finish = () => (broken ? Promise.reject(new Error('gemm: out of memory')) : finish())
  const error = await failure(run([{ use: 'numbers', count: 4 }, { use: 'scale' }], out, { ops, memory: 100 }))
  t.match(
    error.text,
    /^scale {2}b0\n {2}gemm: out of memory\n {2}Where in the code: add --verbose\.$/,
  )
  t.equal(error.exitCode, 1)
})

t.test('the report of a last stage that stores nothing is shown, in order, on every run', async t => {
  const table = defineTable('seen', 1, { i: u32('which') })
  const show = defineStage({
    name: 'show',
    version: 1,
    about: 'Reports.',
    params: Type.Object({}),
    input: numbersTable,
    output: table,
    cache: false,
    report: row => ({ result: { [`row${row.i}`]: row.i }, table: { columns: ['i'], rows: [[String(row.i)]] } }),
    operator: _ => each(async row => ({ i: row.i, [batch(row)[0] as symbol]: batch(row)[1] })),
  })
  const batch = (row: object): [symbol, unknown] => {
    const [symbol] = Object.getOwnPropertySymbols(row)
    return [symbol as symbol, (row as Record<symbol, unknown>)[symbol as symbol]]
  }
  const out = newOut()
  for (const time of ['first', 'second']) {
    const { results, tables } = await run([{ use: 'numbers', count: 4 }, { use: 'show' }], out, { stages: withStages(show) })
    t.same(results, { row0: 0, row1: 1, row2: 2, row3: 3 }, time)
    t.same(
      tables.map(({ rows }) => rows[0]?.[0]),
      ['0', '1', '2', '3'],
      time,
    )
  }
})
