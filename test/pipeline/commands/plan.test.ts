import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { pipe, temporary } from '../../helpers.js'
import { toyGraph } from './toys.js'

t.test('before the first run: what will run, the columns; nothing is made', async t => {
  const folder = temporary(t)
  const { code, stdout } = await pipe(['plan', toyGraph(folder)], { cwd: folder })
  t.equal(code, 0)
  t.match(stdout, /\n2 stages of 3 will run: time unknown until they have run once\.\n/)
  t.match(stdout, /\n {2}square → sum: numbers 1\n {4}layer u32, value f64, \+square f64\n {2}sum → the end: totals 1\n/)
  t.notOk(existsSync(join(folder, 'out')))
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
  const { stdout: code } = await pipe(['plan', graph], { cwd: folder })
  t.match(code, /\nsquare +be taken from the cache/)
  t.match(code, /\nsum +run /)
})

t.test('--json', async t => {
  const folder = temporary(t)
  const plan = JSON.parse((await pipe(['plan', toyGraph(folder), '--json'], { cwd: folder })).stdout)
  t.strictSame(plan.stages.map(({ id, action }: { id: string; action: string }) => [id, action]), [['count', 'source'], ['square', 'run'], ['sum', 'run']])
})

t.test('a wrong graph: exit code 2', async t => {
  const { code, stderr } = await pipe(['plan', toyGraph(temporary(t)), '--set', 'square.wait=-1'])
  t.equal(code, 2)
  t.match(stderr, /square\n {2}wait: .*-1/)
})
