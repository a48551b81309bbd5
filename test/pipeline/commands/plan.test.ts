import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { pipe as startedPipe, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'
import { toyGraph } from './toys.js'

t.test('before the first run: what will run, the columns; nothing is made', async t => {
  const folder = temporary(t)
  const { code, stdout } = await pipe(['plan', toyGraph(folder)], { cwd: folder })
  t.equal(code, 0)
  t.match(stdout, /\n2 stages of 3 will run: time unknown until they have run once\.\n/)
  t.match(stdout, /\n {2}square → sum: numbers 1\n {4}layer u32, value f64, \+square f64\n {2}sum → the end: totals 1\n/)
  t.notOk(existsSync(join(folder, 'out')))
})

t.test('before the first run of the main job: every stage has an estimate', async t => {
  const out = join(temporary(t), 'out')
  const { code, stdout } = await pipe(['plan', 'graphs/qtip-2bit-fast.json', '--out', out, '--json'])
  t.equal(code, 0)
  interface Line {
    id: string
    seconds: number
    isGuess?: true
    memoryBytes: number
    diskBytes: number
  }
  const { stages, ...plan } = JSON.parse(stdout) as { stages: Line[]; seconds: number; memoryBytes: number; diskBytes: number }
  const [, ...rest] = stages
  for (const { id, seconds, isGuess } of rest) t.ok(seconds > 0 && isGuess, `${id}: ${seconds} s`)
  t.ok(Math.abs(plan.seconds - rest.reduce((sum, { seconds }) => sum + seconds, 0)) < 1e-9)
  // What the hessians and the bits take is exact but for the format's own bytes; codes are not stored, as pack condenses them.
  const weights = 4 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 688 * 256)
  t.same(Object.fromEntries(rest.map(({ id, diskBytes }) => [id, diskBytes])), {
    calibrate: 0,
    hessian: 4 * 4 * (3 * 256 ** 2 + 688 ** 2),
    rht: 0,
    round: 0,
    pack: weights / 4,
    write: weights / 4 + 2 * (2048 * 256 + 9 * 256),
    evaluate: 0,
  })
  t.same(Object.fromEntries(rest.map(({ id, memoryBytes }) => [id, memoryBytes])), {
    calibrate: 25772032 + 4 * 256 * 128 * 256,
    hessian: 9146368,
    rht: 5195776,
    round: 22 * 256 * 688 + 12 * 688 ** 2,
    pack: 2113536,
    write: 2097152,
    evaluate: 139345920,
  })
  const half = JSON.parse(
    (await pipe(['plan', 'graphs/qtip-2bit-fast.json', '--out', out, '--json', '--set', 'calibrate.sequences=64'])).stdout,
  )
  t.ok(half.stages[1].seconds < 0.55 * (rest[0]?.seconds ?? 0), 'half the text, half the time')
  const table = (await pipe(['plan', 'graphs/qtip-2bit-fast.json', '--out', out])).stdout
  t.match(table, /\nround +run inside pack +~\S+ m?i?n?s +\S+ MB +never ran here\n/)
  t.match(
    table,
    /\n4 stages of 8 will run: about \S+ m?i?n?s?.*, \S+ MB of tensors at a time, 111 MB of disk on the way, of which 13\.2 MB stay\.\n~ Estimated from sizes/,
  )
  const tuned = (await pipe(['plan', 'graphs/qtip-2bit.json', '--out', out])).stdout
  t.match(tuned, /\nfinetune +run .*~\S+ m?i?n?s?.* +\S+ MB +2\.90 MB +\d+ MB +never ran here\n/)
})

t.test('after a run: cached; after a change: which parameter, old → new, and what hangs on it', async t => {
  const folder = temporary(t)
  const graph = toyGraph(folder)
  await pipe(['run', graph], { cwd: folder })
  const { stdout: same } = await pipe(['plan', graph], { cwd: folder })
  t.match(same, /\nsquare +be taken from the cache +6\nsum +be taken from the cache +1\n/)
  t.match(same, /\nNothing will run/)
  const { stdout: other } = await pipe(['plan', graph, '--set', 'square.factor=3'], { cwd: folder })
  t.match(other, /\nsquare +run +6 +\S+ m?s .*factor: 1 → 3\n/)
  t.match(other, /\nsum +run .*square runs\n/)
  writeFileSync(join(folder, 'sum.js'), `${'\n'}// changed\n`, { flag: 'a' })
  const { stdout: code } = await startedPipe(['plan', graph], { cwd: folder })
  t.match(code, /\nsquare +be taken from the cache/)
  t.match(code, /\nsum +run /)
})

t.test('--json', async t => {
  const folder = temporary(t)
  const plan = JSON.parse((await pipe(['plan', toyGraph(folder), '--json'], { cwd: folder })).stdout)
  t.strictSame(
    plan.stages.map(({ id, action }: { id: string; action: string }) => [id, action]),
    [
      ['count', 'source'],
      ['square', 'run'],
      ['sum', 'run'],
    ],
  )
})

t.test('a wrong graph: exit code 2', async t => {
  const { code, stderr } = await pipe(['plan', toyGraph(temporary(t)), '--set', 'square.wait=-1'])
  t.equal(code, 2)
  t.match(stderr, /square\n {2}wait: .*-1/)
})
