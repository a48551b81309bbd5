import { access, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import { take } from 'rxjs'
import t from 'tap'
import type { TensorRef } from '../../native/tensor-ref.js'
import { type AnyStage, defineStage, each } from '../../pipeline/define.js'
import type { Event } from '../../pipeline/events.js'
import type { Plan } from '../../pipeline/plan.js'
import { fakeOps } from './fake.js'
import { actions, expected, failure, folder, line, newOut, plan, run } from './harness.js'
import { calls, numbered, numbersTable, stages, withStages } from './toys.js'

t.test('a line runs, and the second time nothing does', async t => {
  const out = newOut()
  const first = await run(line, out)
  t.ok(Math.abs((first.results.total as number) - expected(12)) < 1e-3, `${first.results.total} is ${expected(12)}`)
  t.same(calls, { numbers: 12, scale: 12, sum: 12, total: 1 })
  t.equal(first.live, 0, 'no tensor is left')
  t.same(
    first.stages.map(({ id, batches }) => [id, batches]),
    [
      ['numbers', { run: 6, cached: 0 }],
      ['scale', { run: 6, cached: 0 }],
      ['sum', { run: 6, cached: 0 }],
      ['total', { run: 1, cached: 0 }],
    ],
  )
  t.same(first.tables, [{ stage: 'total', columns: ['total'], rows: [['sum', (first.results.total as number).toFixed(4)]] }])
  const written = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'))
  t.same(Object.keys(written), ['graph', 'total', 'seconds', 'peakRssBytes', 'stages', 'devices'])
  t.equal(written.total, first.results.total)

  t.same(Object.values(actions(await plan(line, out))), ['cached', 'cached', 'cached', 'cached'])
  const second = await run(line, out)
  t.equal(calls.numbers, 12, 'nothing was called again')
  t.same(calls, { numbers: 12, scale: 12, sum: 12, total: 1 })
  t.equal(second.results.total, first.results.total)
  t.same(
    second.stages.map(stage => stage.batches.cached),
    [6, 6, 6, 1],
  )
})

t.test('a parameter changed runs its stage and what is below, nothing above', async t => {
  const out = newOut()
  await run(line, out)
  const changed = ['scale.by=5']
  const before = await plan(line, out, { set: changed })
  t.same(actions(before), { numbers: 'cached', scale: 'run', sum: 'run', total: 'run' })
  t.same(
    before.stages.map(stage => stage.why),
    [[], ['by: 2 → 5'], ['scale runs'], ['sum runs']],
  )
  t.ok(before.stages[1]?.seconds !== undefined, 'an estimate from the last run')
  const result = await run(line, out, { set: changed })
  t.same(calls, { numbers: 12, scale: 24, sum: 24, total: 2 })
  t.ok(Math.abs((result.results.total as number) - expected(12, 5)) < 1e-3)
  await run(line, out)
  t.same(calls, { numbers: 12, scale: 24, sum: 24, total: 2 }, 'back again: what was stored is still there')
  const seeded = await plan(line, out, { seed: 1 })
  t.same(seeded.stages[0]?.why, ['seed: 0 → 1'])
})

t.test('branches and merges', async t => {
  const out = newOut()
  const list = [
    { use: 'numbers', count: 6, id: 'n' },
    { use: 'scale', id: 'two' },
    { use: 'scale', id: 'three', by: 3, from: 'n' },
    { use: 'sum', from: ['two', 'three'] },
    { use: 'total' },
  ]
  const { results, stages: usage } = await run(list, out)
  t.ok(Math.abs((results.total as number) - expected(6, 2) - expected(6, 3)) < 1e-3)
  t.equal(calls.numbers, 6, 'the common stage ran once')
  t.equal(usage.find(stage => stage.id === 'sum')?.batches.run, 6, 'three batches from each')
})

t.test('parts: --to, --from, --force', async t => {
  const out = newOut()
  const toScale = await run(line, out, { part: { to: 'scale' } })
  t.same(
    toScale.stages.map(stage => stage.id),
    ['numbers', 'scale'],
  )
  t.match(
    (await failure(run(line, out, { part: { from: 'sum', to: 'scale' } }))).text,
    /^--from sum --to scale\n {2}"scale" reads nothing of "sum"/,
  )
  t.match(
    (await failure(run(line, out, { part: { from: 'smu', to: 'smu' } }))).text,
    /^--only smu\n {2}No stage is called "smu"\. [^\n]+\n[^\n]+$/,
  )
  const error = await failure(run(line, out, { part: { from: 'total' } }))
  t.match(error.text, /--from leaves sum to what is stored, and 6 of its batches are not/)
  const heard: Event[] = []
  const only = { part: { from: 'sum', to: 'sum' } }
  const said = /\n {2}--only leaves numbers to what is stored, and \S+ of its batches are not\.\n {2}Run what is missing: --to sum\.$/
  t.match((await failure(run(line, newOut(), { ...only, heard }))).text, said)
  t.strictSame(
    heard.map(({ kind }) => kind),
    ['failed'],
    'before the plan is told',
  )
  t.match((await failure(plan(line, newOut(), only))).text, said, 'and pipe plan says so')
  await run(line, out, { part: { from: 'sum' } })
  t.same(calls, { numbers: 12, scale: 12, sum: 12, total: 1 })
  await run(line, out, { part: { force: ['sum'] } })
  t.same(calls, { numbers: 12, scale: 12, sum: 24, total: 1 }, 'only what was forced: its results did not change')
  t.match((await failure(run(line, out, { part: { to: 'sun' } }))).text, /No stage is called "sun"\. Did you mean "sum"\?/)
})

t.test('parts: --from leaves ends out that are neither before nor behind', async t => {
  const out = newOut()
  const list = [
    { use: 'numbers', count: 6 },
    { use: 'scale' },
    { use: 'scale', id: 'beside', by: 3 },
    { use: 'sum', id: 'end' },
    { use: 'sum', id: 'left', from: 'scale' },
    { use: 'sum', id: 'right', from: 'numbers' },
    { use: 'total', from: ['left', 'right'] },
  ]
  const part = { from: 'left' }
  t.match((await failure(run(list, out, { part }))).text, /--from leaves numbers to what is stored/)
  await run(list, out, { part: { to: 'right' } })
  await run(list, out, { part: { to: 'scale' } })
  t.same(actions(await plan(list, out, { part })), { numbers: 'cached', scale: 'cached', left: 'run', right: 'cached', total: 'run' })
  await run(list, out, { part })
  t.same(calls, { numbers: 6, scale: 6, sum: 12, total: 1 }, 'beside and end did not run')
  t.same(actions(await plan(list, out)), {
    ...{ numbers: 'cached', scale: 'cached', beside: 'run', end: 'run', left: 'cached', right: 'cached', total: 'cached' },
  })
  await rm(join(out, 'cache'), { recursive: true })
  await run(list, out, { part: { to: 'scale' } })
  t.match((await failure(run(list, out, { part }))).text, /--from leaves right to what is stored, and 3 of its batches are not/)
})

t.test('parts: none ends with live tensors, which are not stored', async t => {
  const list = [{ use: 'numbers', count: 4 }, { use: 'live' }, { use: 'gather' }, { use: 'gather', id: 'again', from: 'live' }]
  for (const [part, given] of [
    [{ to: 'live' }, '--to live'],
    [{ from: 'numbers', to: 'live' }, '--to live'],
    [{ from: 'live', to: 'live' }, '--only live'],
  ] as const) {
    const said =
      `${given}\n  "live" gives live tensors, which are never stored, so a run can't end with it.\n` +
      '  Name a stage that reads them: gather, again.'
    for (const ends of [run, plan]) {
      const { code, text } = await failure(ends(list, newOut(), { part }))
      t.same([code, text], ['graph', said])
    }
  }
  t.same(calls, {}, 'nothing ran')
  await run(list, newOut(), { part: { to: 'gather' } })
  t.match(calls, { live: 4, gather: 4 })
})

t.test('parts: none ends with a stage that is not stored, unless it ends the graph', async t => {
  const cheap = { ...((await stages.scale?.())?.default as AnyStage), name: 'cheap', cache: false }
  const o = { stages: withStages(cheap) }
  const list = [{ use: 'numbers', count: 4 }, { use: 'cheap' }, { use: 'sum' }]
  for (const [part, given] of [
    [{ to: 'cheap' }, '--to cheap'],
    [{ from: 'cheap', to: 'cheap' }, '--only cheap'],
  ] as const)
    for (const ends of [run, plan])
      t.equal(
        (await failure(ends(list, newOut(), { ...o, part }))).text,
        `${given}\n  "cheap" is not stored, as it is cheap to do again: a run that ends with it leaves nothing.\n  Name a stage that reads it: sum.`,
      )
  t.same(calls, {}, 'nothing ran')
  await t.resolves(run(list.slice(0, 2), newOut(), { ...o, part: { to: 'cheap' } }))
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
  const time = new Date()
  await utimes(file, time, time)
  t.same((await plan(list, out)).stages[0]?.why, ['text: a.txt was changed'])
  await run(list, out)
  t.equal(calls.lines, 2)
  await writeFile(join(folder, 'b.txt'), 'one\ntwo')
  await run(list, out, { set: [`lines.text=${join(folder, 'b.txt')}`] })
  t.equal(calls.lines, 2, 'another name, the first content')
  await writeFile(file, 'one\nthree?')
  await utimes(file, time, time)
  await run(list, out)
  t.equal(calls.lines, 3, 'another content of the same size, dated back')
  await rm(file)
  t.match((await failure(run(list, out))).text, /stages\[0\] lines {2}text\n {2}There is no such file: .*a\.txt/)
})

t.test('a graph of nothing but its source runs, and ends', async t => {
  const source = { ...(await stages.numbers?.())?.default, name: 'source', cache: false } as AnyStage
  const { events } = await run([{ use: 'source', count: 4, size: 2 }], newOut(), { stages: withStages(source) })
  t.equal(events.at(-1)?.kind, 'result')
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
  const lines = (await readFile(join(out, 'events.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .map(text => JSON.parse(text) as Event)
  t.same(
    lines.map(event => event.kind),
    kinds,
  )
})

t.test('estimates: of stages that never ran, from the rows of the source; measured ones win', async t => {
  const out = newOut()
  const given: number[] = []
  const guessing = (name: string): AnyStage =>
    defineStage({
      name,
      version: 1,
      about: 'Guesses.',
      params: Type.Object({}),
      input: numbersTable,
      output: numbersTable,
      estimate: rows => {
        given.push(rows.length)
        const bytes = rows.reduce((sum, { x }) => sum + (x as TensorRef).bytes, 0)
        return { operations: 1e10 * rows.length, memory: 7, disk: 3e8 * bytes, rows: rows.slice(1) }
      },
      operator: _ => each(async row => ({ ...row })),
    })
  const source = { ...(await stages.numbers?.())?.default, name: 'source', cache: false } as AnyStage
  const o = { stages: withStages(source, guessing('first'), guessing('second')) }
  const list = [{ use: 'source', count: 4, size: 2 }, { use: 'first' }, { use: 'second' }, { use: 'sum' }]
  const before = await plan(list, out, o)
  t.same(given, [4, 4, 3, 4, 3], 'the second is given what the first says it gives')
  // 10¹⁰ operations a second on the one thread there is, 3·10⁸ bytes, 0.01 s a batch
  t.same(
    before.stages.map(({ seconds, diskBytes, isGuess }) => [seconds, diskBytes, isGuess]),
    [
      [undefined, undefined, undefined],
      [4 + 32 + 0.02, 96e8, true],
      [3 + 24 + 0.02, 72e8, true],
      [undefined, undefined, undefined],
    ],
  )
  t.equal(before.seconds, undefined, 'sum does not say')
  await run(list, out, o)
  const after = await plan(list, out, { ...o, part: { force: ['first', 'second', 'sum'] } })
  for (const { id, seconds = 0, isGuess } of after.stages.slice(1)) t.ok(seconds < 1 && !isGuess, `${id}: measured`)
  t.ok((after.seconds ?? 9) < 3)
  const onTwo = await plan(list, out, { ...o, others: [fakeOps()], part: { force: ['first', 'second', 'sum'] } })
  for (const [i, { seconds = 0 }] of onTwo.stages.entries())
    t.equal(seconds, (after.stages[i]?.seconds ?? 0) / 2, 'two devices, half the time')
})

t.test('a plan is a value: what would run, why, and what flows', async t => {
  const out = newOut()
  const list = [{ use: 'numbers', count: 4 }, { use: 'live' }, { use: 'gather' }, { use: 'total' }]
  const told = ({ stages }: Plan) =>
    stages.map(({ id, action, segment, batches, why, from }) => ({ id, action, segment, batches, why, from }))
  const first = await plan(list, out)
  t.same(told(first), [
    { id: 'numbers', action: 'run', segment: 0, batches: undefined, why: ['never ran here'], from: [] },
    { id: 'live', action: 'inline', segment: 1, batches: undefined, why: ['never ran here'], from: ['numbers'] },
    { id: 'gather', action: 'run', segment: 1, batches: undefined, why: ['never ran here'], from: ['live'] },
    { id: 'total', action: 'run', segment: 2, batches: undefined, why: ['never ran here'], from: ['gather'] },
  ])
  t.same(first.stages[0]?.gives, ['i u32', 'name utf8', 'x f32 [k]'])
  t.same([first.graph, first.backend, first.seconds, first.out], ['toy', 'cpu', undefined, out])
  t.same(JSON.parse(JSON.stringify(first)), first, 'it is plain JSON')
  await t.rejects(access(out), 'planning writes nothing')
  await run(list, out)
  const set = ['numbers.count=6']
  const second = await plan(list, out, { set })
  t.same(
    told(second).map(({ id, action, why }) => [id, action, why]),
    [
      ['numbers', 'run', ['count: 4 → 6']],
      ['live', 'inline', ['numbers runs']],
      ['gather', 'run', ['live runs']],
      ['total', 'run', ['gather runs']],
    ],
  )
  t.ok((second.seconds ?? -1) >= 0, 'all have run before, so the time is known')
  const third = await plan(list, out)
  t.same(
    told(third).map(({ id, action, batches }) => [id, action, batches]),
    [
      ['numbers', 'cached', { cached: 2, missing: 0 }],
      ['live', 'inline', undefined],
      ['gather', 'cached', { cached: 2, missing: 0 }],
      ['total', 'cached', { cached: 1, missing: 0 }],
    ],
  )
  t.same(Object.keys(third.stages[0]?.keys ?? {}), ['b0', 'b1'])
})

t.test('a stage whose estimate throws: who asked for the plan is told', async t => {
  const silly = numbered('silly', {
    estimate: () => {
      throw new Error('no idea')
    },
  })
  const source = { ...(await stages.numbers?.())?.default, name: 'source', cache: false } as AnyStage
  const text = join(folder, 'hashed.txt') // whose hash is still being noted down when the estimate is asked for
  await writeFile(text, 'one')
  const list = [{ use: 'lines', text }, { use: 'source', count: 4 }, { use: 'silly' }]
  await t.rejects(plan(list, newOut(), { stages: withStages(source, silly) }), /no idea/)
})

t.test('ids that every object has a property of', async t => {
  const ids = ['constructor', 'toString', 'valueOf', 'hasOwnProperty']
  const list = [{ use: 'numbers', count: 4 }, ...ids.map(id => ({ use: 'scale', id, by: 1 })), { use: 'sum' }, { use: 'total' }]
  const out = newOut()
  t.same((await plan(list, out)).stages.map(({ why }) => why?.[0]), Array(7).fill('never ran here'))
  t.ok(Math.abs(((await run(list, out)).results.total as number) - expected(4, 1)) < 1e-3)
  t.same((await plan(list, out)).stages.flatMap(({ why }) => why), [])
})

t.test('an operator that throws when it is asked for is named, whatever its scope', async t => {
  for (const scope of ['stream', 'batch'] as const) {
    const thrower = numbered('thrower', {
      scope,
      operator: () => {
        throw new Error('no good')
      },
    })
    const error = await failure(run([{ use: 'numbers', count: 4 }, { use: 'thrower' }], newOut(), { stages: withStages(thrower) }))
    t.match(error.text, scope === 'stream' ? /^thrower\n {2}no good/ : /^thrower {2}b0\n {2}no good/)
  }
})

const byName = (row: { name: string }): string => row.name

t.test('a batch stage is started for each batch, whether the stream stage before it is stored or not', async t => {
  const first = numbered('first', { operator: () => take(1) })
  const none = numbered('none', { operator: () => each(async row => (row.i === 2 ? undefined : row)) })
  for (const cache of [true, false]) {
    for (const batch of [undefined, byName]) {
      const whole = numbered('whole', { scope: 'stream', cache, ...(batch && { batch }) })
      const list = [{ use: 'numbers', count: 6 }, { use: 'whole' }, { use: 'first' }, { use: 'none' }, { use: 'sum' }, { use: 'total' }]
      const o = { stages: withStages(whole, first, none) }
      const [out, what] = [newOut(), `${cache ? 'stored' : 'not stored'}, ${batch ? 'with' : 'without'} batch()`]
      await plan(list, out, o)
      const { events, live, stages: usage } = await run(list, out, o)
      t.match(calls, { sum: 2, total: 1 }, `${what}: one row a batch, of three batches, of which one is dropped then`)
      t.equal(live, 0)
      t.same(
        events.flatMap(event => (event.kind === 'batch-finished' && event.stage === 'first' ? [event.batch] : [])).sort(),
        ['b0', 'b1', 'b2'],
      )
      t.match(usage.find(({ id }) => id === 'first')?.batches, { run: 3 })
      t.notOk(events.some(event => event.kind === 'note'), 'nothing was missing later')
      t.match(actions(await plan(list, out, o)), { first: 'cached', total: 'cached' }, 'all is found again')
      await plan(list, out, { ...o, part: { force: ['first'] } })
      for (const name of Object.keys(calls)) delete calls[name]
    }
  }
})

t.test('a batch stage that stores nothing, behind a stream stage that does not, too, and one that gives nothing of a batch', async t => {
  const whole = numbered('whole', { scope: 'stream', cache: false, batch: byName })
  const first = numbered('first', { cache: false, operator: () => take(1) })
  const none = numbered('none', { operator: () => each(async row => (row.i === 2 ? undefined : row)) })
  const out = newOut()
  const list = [{ use: 'numbers', count: 6 }, { use: 'whole' }, { use: 'first' }, { use: 'none' }, { use: 'sum' }, { use: 'total' }]
  const { events } = await run(list, out, { stages: withStages(whole, first, none) })
  t.match(calls, { sum: 2, total: 1 })
  t.notOk(events.some(event => event.kind === 'note'), 'the empty batch was stored')
})

t.test('a stream stage behind a batch stage behind a stream stage, neither of them stored: its key is the same before and after', async t => {
  for (const batch of [byName, undefined]) {
    const whole = numbered('whole', { scope: 'stream', cache: false, ...(batch && { batch }) })
    const passing = numbered('passing', { cache: false })
    const kept = numbered('kept', { scope: 'stream' })
    const out = newOut()
    const list = [{ use: 'numbers', count: 6 }, { use: 'whole' }, { use: 'passing' }, { use: 'kept' }, { use: 'sum' }, { use: 'total' }]
    const options = { stages: withStages(whole, passing, kept) }
    const { events, results } = await run(list, out, options)
    t.ok(Math.abs((results.total as number) - expected(6, 1)) < 1e-3, 'every row is there')
    t.notOk(events.some(event => event.kind === 'note'), 'nothing was missing later')
    t.match(actions(await plan(list, out, options)), { kept: 'cached', sum: 'cached', total: 'cached' })
  }
})

t.test('branches that store nothing are merged as those that do', async t => {
  const ids = async (cache: boolean, scope: 'batch' | 'stream', o: { batch?: AnyStage['batch']; merging?: AnyStage['scope'] }) => {
    const branch = numbered('branch', { scope, cache, ...(o.batch && { batch: o.batch }) })
    const kept = numbered('kept', {})
    const merged = numbered('merged', { scope: o.merging ?? 'stream' })
    const list = [
      { use: 'numbers', count: 6, id: 'n' },
      { use: 'kept' },
      { use: 'branch', id: 'b', from: 'n' },
      { use: 'branch', id: 'c', from: 'n' },
      { use: 'merged', from: ['kept', 'b', 'c'] },
      { use: 'sum' },
      { use: 'total' },
    ]
    const [out, options] = [newOut(), { stages: withStages(branch, kept, merged) }]
    const { events, results, live } = await run(list, out, options)
    t.equal(live, 0)
    t.ok(Math.abs((results.total as number) - 3 * expected(6, 1)) < 1e-3, 'every row is there')
    t.notOk(events.some(event => event.kind === 'note'), 'nothing was missing later')
    const { keys = {} } = (await plan(list, out, options)).stages.find(({ id }) => id === 'merged') ?? {}
    t.match(actions(await plan(list, out, options)), { merged: 'cached', total: 'cached' })
    return Object.keys(keys)
  }
  const all = ['b0', 'b1', 'b2', 'b0@b', 'b1@b', 'b2@b', 'b0@c', 'b1@c', 'b2@c']
  for (const cache of [true, false]) {
    t.same(await ids(cache, 'batch', {}), all, 'batches')
    t.same(await ids(cache, 'stream', {}), all, 'streams')
    t.same(await ids(cache, 'stream', { batch: byName }), all, 'streams that name their batches')
    t.same(await ids(cache, 'stream', { batch: byName, merging: 'batch' }), all, 'read batch by batch')
  }
})

t.test('a branch that is merged twice: no two batches have one name', async t => {
  for (const cache of [true, false]) {
    const stages = withStages(numbered('branch', { cache }), numbered('merged', { cache }))
    const list = [
      { use: 'numbers', count: 6 },
      { use: 'branch' },
      { use: 'merged', from: ['numbers', 'branch'] },
      { use: 'sum', from: ['merged', 'branch'] },
      { use: 'total' },
    ]
    const out = newOut()
    const { results } = await run(list, out, { stages })
    t.ok(Math.abs((results.total as number) - 3 * expected(6, 1)) < 1e-3, `every row is there: ${results.total}`)
    const { keys = {} } = (await plan(list, out, { stages })).stages.find(({ id }) => id === 'sum') ?? {}
    t.same(Object.keys(keys), ['b0', 'b1', 'b2', 'b0@branch', 'b1@branch', 'b2@branch', 'b0@branch@branch', 'b1@branch@branch', 'b2@branch@branch'])
  }
})

t.test('a branch is asked for its batches by the names that the merging stage gives them', async t => {
  const asked: Record<string, boolean> = {}
  const branch = numbered('branch', {
    scope: 'stream',
    cache: false,
    operator: (_, { wanted }) =>
      each(async row => {
        asked[`${Object.keys(asked).length} ${row.name}`] = wanted(row.name)
        return wanted(row.name) ? { ...row } : undefined
      }),
  })
  const merged = numbered('merged', { scope: 'stream' })
  const list = [
    { use: 'numbers', count: 3, rows: 1, id: 'n' },
    { use: 'branch', id: 'b' },
    { use: 'branch', id: 'c', from: 'n' },
    { use: 'merged', from: ['b', 'c'] },
  ]
  const [out, o] = [newOut(), { stages: withStages(branch, merged) }]
  await run(list, out, o)
  const { keys = {} } = (await plan(list, out, o)).stages.find(({ id }) => id === 'merged') ?? {}
  const lost = keys['b1@c'] as string
  await rm(join(out, 'cache', lost.slice(0, 2), `${lost}.parquet`))
  for (const name of Object.keys(asked)) delete asked[name]
  await run(list, out, o)
  t.same(asked, { '0 b0': false, '1 b1': false, '2 b2': false, '3 b0': false, '4 b1': true, '5 b2': false })
})

t.test('a batch stage reads live rows as they come: a batch of them need not fit at a time', async t => {
  const { default: gather } = (await stages.gather?.()) ?? {}
  const byBatch = { ...gather, name: 'byBatch', scope: 'batch' } as AnyStage
  const large = { ...(await stages.live?.())?.default, name: 'large', batch: ({ i }) => (i < 6 ? 'first' : 'second') } as AnyStage
  const list = [{ use: 'numbers', count: 12 }, { use: 'large' }, { use: 'byBatch' }, { use: 'total' }]
  const { results, live } = await run(list, newOut(), { stages: withStages(byBatch, large), memory: 100 })
  t.ok(Math.abs((results.total as number) - expected(12, 1)) < 1e-3)
  t.match(calls, { gather: 12 })
  t.equal(live, 0)
})
