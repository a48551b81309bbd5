/** A run killed at ten random moments goes on each time from the finished batches, and ends with the bytes of an undisturbed one. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { rng } from '../../pipeline/random.js'
import { pipe, startPipe, temporary } from '../helpers.js'

const graph = 'graphs/qtip-2bit-fast.json'
// Fewer tokens and states than the graph's own: what is tested is the going on.
const less = ['calibrate.sequences=32', 'evaluate.sequences=8', 'round.codebook.L=12'].flatMap(setting => ['--set', setting])

interface Event {
  kind: string
  stage?: string
  batch?: string
  cached?: boolean
}
interface Result {
  seconds?: number
  peakRssBytes?: number
  devices?: object[]
  tokensPerSecond?: object
  stages?: { id: string; opCalls: number; batches: { run: number; cached: number } }[]
}

/** result.json but for what depends on the clock. */
function outcome(out: string): Result {
  const {
    seconds: _,
    peakRssBytes: __,
    stages: ___,
    devices: ____,
    tokensPerSecond: _____,
    ...rest
  } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as Result
  return rest
}
const finished = (stdout: string): string[] =>
  stdout
    .trim()
    .split('\n')
    .filter(line => line.endsWith('}'))
    .map(line => JSON.parse(line) as Event)
    .filter(event => event.kind === 'batch-finished' && event.cached === false)
    .map(({ stage, batch }) => `${stage} ${batch}`)

t.setTimeout(600_000)
t.test('SIGKILL at ten random moments', { timeout: 600_000 }, async t => {
  const [undisturbed, disturbed] = [temporary(t), temporary(t)]
  const begin = performance.now()
  t.equal((await pipe(['run', graph, ...less, '--out', undisturbed])).code, 0)
  const whole = performance.now() - begin

  const moments = rng(7, 'moments').uniform(10)
  const seen: string[] = []
  let kills = 0
  for (const moment of moments) {
    const running = startPipe(['run', graph, ...less, '--out', disturbed, '--json'])
    await Promise.race([sleep(400 + moment * 0.4 * whole), running.finished])
    running.kill('SIGKILL')
    const { signal, stdout } = await running.finished
    if (signal === 'SIGKILL') kills++
    seen.push(...finished(stdout))
  }
  t.ok(kills >= 3, `${kills} of the ten were killed before they were done`)
  const last = await pipe(['run', graph, ...less, '--out', disturbed, '--json'])
  t.equal(last.code, 0, last.stderr)
  seen.push(...finished(last.stdout))

  t.strictSame(outcome(disturbed), outcome(undisturbed))
  const files = readdirSync(join(undisturbed, 'model')).sort()
  t.strictSame(readdirSync(join(disturbed, 'model')).sort(), files)
  for (const file of files) t.ok(readFileSync(join(undisturbed, 'model', file)).equals(readFileSync(join(disturbed, 'model', file))), file)
  // round is stored as pack's bits: a batch is finished with them.
  const stored = seen.filter(name => name.startsWith('pack '))
  t.equal(stored.length, new Set(stored).size, 'no finished batch was rounded twice')

  const again = await pipe(['run', graph, ...less, '--out', disturbed])
  t.equal(again.code, 0)
  const { stages = [] } = JSON.parse(readFileSync(join(disturbed, 'result.json'), 'utf8')) as Result
  for (const { id, opCalls } of stages) t.equal(opCalls, 0, `${id}: nothing is computed again`)
})
