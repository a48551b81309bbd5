import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { pipe as startedPipe, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'
import { toyGraph } from './toys.js'

/** A folder in which the graph ran twice, with another factor the second time: half of what is stored is not in use. */
async function ranTwice(t: Parameters<typeof temporary>[0]) {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  await pipe(['run', graph, '--set', 'square.factor=2'], { cwd: folder })
  await pipe(['run', graph], { cwd: folder })
  const files = () =>
    readdirSync(join(folder, 'out/toy/cache'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.parquet'))
  return { graph, files, cache: (...args: string[]) => pipe(['cache', ...args], { cwd: folder }), path: join(folder, 'out/toy/cache') }
}

t.test('ls: stage, batch, size, age, in use', async t => {
  const { graph, cache } = await ranTwice(t)
  const { code, stdout } = await cache('ls', graph)
  t.equal(code, 0)
  t.match(stdout, /^stage +batch +size +age +in use +key\n/)
  t.equal(stdout.match(/^square +\d +\S+ \w?B +\S+ m?s +yes +[0-9a-f]{12}$/gm)?.length, 6)
  t.equal(stdout.match(/^square .* no +[0-9a-f]{12}$/gm)?.length, 6)
  t.match(stdout, /\nout\/toy\/cache: 14 batches, \S+ kB; not in use: 7 batches, \S+ kB\n$/)
  t.match((await cache('ls', '--out', 'out/toy')).stdout, /^stage +batch +size +age +key\n/)
  t.equal((await cache('ls')).code, 1, 'of what?')
})

t.test('a folder that no run has written is none of which nothing is stored', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  const cache = (...args: string[]) => pipe(['cache', ...args], { cwd: folder })
  mkdirSync(join(folder, 'other'))
  for (const [args, where] of [
    [['ls', '--out', 'nowhere'], 'nowhere'],
    [['verify', '--out', 'nowhere'], 'nowhere'],
    [['verify', '--out', 'other'], 'other'],
    [['ls', graph], 'out/toy'],
    [['gc', graph], 'out/toy'],
  ] as const) {
    const { code, stdout, stderr } = await cache(...args)
    t.equal(code, 1, args.join(' '))
    t.equal(stdout, '')
    t.ok(stderr.startsWith(`${where}\n  expected the folder of a run, with cache/ in it, and found none.\n`), stderr)
  }
  t.notOk(existsSync(join(folder, 'out')))
  mkdirSync(join(folder, 'empty/cache'), { recursive: true })
  t.match((await cache('ls', '--out', 'empty')).stdout, /^empty\/cache: 0 batches, 0 B\n$/)
})

t.test('verify: a flipped byte and a cut are found, named, and left where they are', async t => {
  const { cache, files, path } = await ranTwice(t)
  t.match((await cache('verify', '--out', 'out/toy')).stdout, /14 batches, \S+ kB, all intact\n$/)
  const [first = '', second = ''] = files()
  const bytes = readFileSync(join(path, first))
  bytes[Math.floor(bytes.length / 2)]! ^= 4
  writeFileSync(join(path, first), bytes)
  writeFileSync(join(path, second), readFileSync(join(path, second)).subarray(0, -9))
  const { code, stderr } = await cache('verify', '--out', 'out/toy')
  t.equal(code, 1)
  t.match(stderr, /2 batches are damaged, of 14:/)
  t.match(stderr, first.split('/').at(-1)?.slice(0, 12))
  t.match(stderr, /The next run discards and computes them again\./)
  t.equal(files().length, 14)
})

t.test('a sound file under the key of another batch is none of it: verify says so, and a run makes it again', async t => {
  const { graph, cache, files, path } = await ranTwice(t)
  const squares = files().filter(name => readFileSync(join(path, name)).includes('"stage":"square"'))
  const [one, two] = squares.map(name => join(path, name)) as [string, string]
  const good = [readFileSync(one), readFileSync(two)] as const
  writeFileSync(one, good[1])
  writeFileSync(two, good[0])
  const { code, stderr } = await cache('verify', graph)
  t.equal(code, 1)
  t.match(stderr, /2 batches are damaged, of 14:\n/)
  t.equal(stderr.match(/: The stored file is damaged: it holds the batch of another key, [0-9a-f]{12}\.\n/g)?.length, 2)
  const folder = join(path, '../../..')
  for (const factor of ['2', '1']) t.equal((await pipe(['run', graph, '--set', `square.factor=${factor}`], { cwd: folder })).code, 0)
  t.match((await cache('verify', graph)).stdout, /: 1\d batches, .* all intact\n$/)
})

t.test('a folder where a graph has to be', async t => {
  const { cache, path } = await ranTwice(t)
  const out = join(path, '..')
  const outputs = await cache('verify', out)
  t.equal(outputs.code, 2)
  t.match(
    outputs.stderr,
    /^out\/toy\n {2}expected the \.json file of a graph and found a folder\.\n {2}It holds what a run has made\. Name/,
  )
  t.match(outputs.stderr, /say --out out\/toy; pipe cache ls and verify need --out alone\./)
  for (const command of ['run', 'plan', 'graph']) {
    const { code, stderr } = await pipe([command, join(out, '..')])
    t.equal(code, 2, command)
    t.match(stderr, /found a folder\.\n {2}Name the file, such as graphs\/qtip-2bit\.json\.\n/, command)
  }
})

t.test('gc: what a stage on the whole stream had finished when it failed is in use, and kept', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder, graph => graph.stages.splice(1, 1, { use: './trained.js' }))
  const stage = `import { defineStage, defineTable, each, f64, Type, u32 } from 'pipe'
    const numbers = defineTable('numbers', 1, { layer: u32('which'), value: f64('a number') })
    export default defineStage({
      name: 'trained', version: 1, about: 'Fails at first.', scope: 'stream', batch: row => String(row.layer), params: Type.Object({}),
      input: numbers, output: numbers.and({ square: f64('value²') }),
      operator: () => each(async row => {
        if (row.layer !== Number(process.env.FAIL_AT)) return { ...row, square: row.value ** 2 }
        await new Promise(done => setTimeout(done, 500))
        throw new Error('no power')
      }),
    })`
  writeFileSync(join(folder, 'trained.js'), stage)
  t.equal((await startedPipe(['run', graph], { cwd: folder, env: { FAIL_AT: '4' } })).code, 1)
  const cache = (...args: string[]) => pipe(['cache', ...args, graph], { cwd: folder })
  const kept = (await cache('ls')).stdout.match(/^trained +\d .* yes +[0-9a-f]{12}$/gm)?.length ?? 0
  t.ok(kept > 0, `${kept} of 4`)
  t.match((await cache('gc')).stdout, /nothing to delete\n$/)
  t.match((await startedPipe(['run', graph], { cwd: folder })).stderr, new RegExp(`\\ntrained: ${6 - kept} batches in `))
})

const trained = `import { from, mergeMap, toArray } from 'rxjs'
  import { defineStage, defineTable, f64, Type, u32 } from 'pipe'
  const numbers = defineTable('numbers', 1, { layer: u32('which'), value: f64('a number') })
  export default defineStage({
    name: 'trained', version: 1, about: 'Fails at first.', scope: 'stream', batch: row => String(row.layer),
    params: Type.Object({ rate: Type.Number() }),
    input: numbers, output: numbers.and({ square: f64('value²') }),
    operator: ({ rate }, { checkpoint }) => source => source.pipe(toArray(), mergeMap(async rows => {
      const begun = await checkpoint.load('begun')
      if (begun === undefined) await checkpoint.save('begun', { rate }, {})
      if (process.env.FAIL) throw new Error('no power')
      return rows.map(row => ({ ...row, square: begun === undefined ? -1 : row.value ** 2 * begun.value.rate }))
    }), mergeMap(rows => from(rows))),
  })`

t.test('gc: checkpoints of a stopped stage, as long as its parameters are those; ls names the stage', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder, graph => graph.stages.splice(1, 1, { use: './trained.js', rate: 1 }))
  writeFileSync(join(folder, 'trained.js'), trained)
  const run = (rate: number, env = {}) => startedPipe(['run', graph, '--set', `trained.rate=${rate}`], { cwd: folder, env })
  for (const rate of [2, 3]) t.equal((await run(rate, { FAIL: '1' })).code, 1)
  const cache = (...args: string[]) => pipe(['cache', ...args, graph, '--set', 'trained.rate=3'], { cwd: folder })
  const { stdout } = await cache('ls')
  t.match(stdout, /\ntrained +checkpoint +\S+ \w?B +\S+ m?s +yes +[0-9a-f]{12}\n/)
  t.match(stdout, /\n +checkpoint +\S+ \w?B +\S+ m?s +no +[0-9a-f]{12}\n/, 'of parameters that were')
  t.match(stdout, /cache: 2 checkpoints, \S+ \w?B; not in use: 1 checkpoint, \S+ \w?B\n$/)
  t.match((await cache('gc', '--dry-run')).stdout, /\nWould delete 1 checkpoint, /)
  t.match((await cache('gc')).stdout, /\nDeleting 1 checkpoint, /)
  t.match((await cache('gc')).stdout, /nothing to delete\n$/)
  const plan = await pipe(['plan', graph, '--set', 'trained.rate=3'], { cwd: folder })
  t.match(plan.stdout, 'it was stopped, and goes on from its checkpoints')
  t.equal((await run(3)).code, 0)
  t.match((await cache('ls')).stdout, /cache: \d+ batches, \S+ \w?B\n$/, 'a finished stage leaves none')
})

t.test('gc: nothing is deleted where a damaged list of batches hides what is in use', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder, graph => graph.stages.splice(1, 1, { use: './upper.js' }, { use: './trained.js', rate: 1 }))
  writeFileSync(join(folder, 'trained.js'), trained)
  const upper = `import { defineStage, defineTable, each, f64, Type, u32 } from 'pipe'
    const numbers = defineTable('numbers', 1, { layer: u32('which'), value: f64('a number') })
    export default defineStage({
      name: 'upper', version: 1, about: 'As they are.', scope: 'stream', batch: row => String(row.layer), params: Type.Object({}),
      input: numbers, output: numbers, operator: () => each(async row => ({ ...row })),
    })`
  writeFileSync(join(folder, 'upper.js'), upper)
  t.equal((await startedPipe(['run', graph], { cwd: folder, env: { FAIL: '1' } })).code, 1)
  const streams = join(folder, 'out/toy/cache/streams')
  for (const name of readdirSync(streams)) writeFileSync(join(streams, name), '{')
  const { code, stderr } = await pipe(['cache', 'gc', graph], { cwd: folder })
  t.equal(code, 1)
  t.match(stderr, /^out\/toy\/cache\/streams\/[0-9a-f]{64}\.json\n {2}This list of batches is damaged, so it is not known what the stages behind them use\./)
  t.match(stderr, /Run the graph: that makes the list anew\.\n {2}Nothing was deleted\.\n/)
  const after = await startedPipe(['run', graph], { cwd: folder })
  t.equal(after.code, 0)
  t.match((await pipe(['cache', 'gc', graph], { cwd: folder })).code, 0, 'as it says')
})

t.test('files that are none, or that cannot be read', async t => {
  const { graph, cache, path } = await ranTwice(t)
  const odd = join(path, 'ab', `ab${'0'.repeat(62)}.parquet`)
  mkdirSync(join(path, 'ab'), { recursive: true })
  symlinkSync(odd, odd)
  t.match((await cache('ls', graph)).stdout, /: 15 batches, /)
  t.match((await cache('verify', '--out', 'out/toy')).stderr, /1 batch is damaged, of 15:\n.*ELOOP/)
  const { code, stderr } = await cache('gc', graph)
  t.equal(code, 1)
  t.match(stderr, /\.parquet\n {2}It could not be read, and what it refers to is in use as well: ELOOP.*\n {2}Nothing was deleted\.\n/)
  unlinkSync(odd)
  mkdirSync(odd)
  const waiting = join(path, 'ab', `ab${'1'.repeat(62)}.parquet`)
  spawnSync('mkfifo', [waiting])
  t.match((await cache('verify', '--out', 'out/toy')).stderr, /2 batches are damaged, of 16:\n.*it is no file/)
  t.match((await cache('gc', graph)).stdout, /\nDeleting 9 batches, /, 'a folder of such a name goes with the rest')
  t.match((await cache('ls', graph)).stdout, /: 7 batches, \S+ kB\n$/)
})

t.test('gc: says what, deletes what the plan does not use, keeps the rest', async t => {
  const { graph, cache, files, path } = await ranTwice(t)
  const dry = await cache('gc', graph, '--dry-run')
  t.match(dry.stdout, /\nWould delete 7 batches, \S+ kB\n$/)
  t.equal(files().length, 14)
  const { code, stdout } = await cache('gc', graph)
  t.equal(code, 0)
  t.match(stdout, /^stage +batch [\s\S]*\nDeleting 7 batches, /)
  t.equal(files().length, 7)
  t.match((await cache('ls', graph)).stdout, /: 7 batches, \S+ kB\n$/)
  t.match((await startedPipe(['cache', 'gc', graph, '--out', join(path, '..')])).stdout, /nothing to delete\n$/)
  const times = files().map(name => statSync(join(path, name)).mtimeMs)
  t.match((await pipe(['run', graph, '--out', join(path, '..')])).stderr, /Nothing will run/)
  t.strictSame(
    files().map(name => statSync(join(path, name)).mtimeMs),
    times,
  )
  t.equal((await cache('gc', '--out', 'out/toy')).code, 1, 'what is in use is known from the graph')
})
