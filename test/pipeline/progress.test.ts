import t from 'tap'
import type { Event, Happening } from '../../pipeline/events.js'
import type { Plan } from '../../pipeline/plan.js'
import { Progress } from '../../pipeline/progress.js'

const stage = (id: string, missing: number, cached = 0) =>
  ({
    id,
    use: id,
    from: [],
    scope: 'batch',
    segment: 0,
    fingerprint: '',
    action: 'run',
    batches: { cached, missing },
    why: [],
    reads: [],
    gives: [],
    table: '',
    keys: {},
  }) as Plan['stages'][number]
const device = { name: 'cpu', text: 'cpu', freeBytes: 1e9, limitBytes: 1e9 }
const plan = (...stages: Plan['stages']): Happening => ({
  kind: 'plan',
  plan: { graph: 'g', file: 'g.json', out: 'out', backend: 'cpu', devices: [device], segments: [], warnings: [], stages },
})
const usage = (id: string, run: number, cached: number) => ({
  id,
  use: id,
  seconds: 2,
  peakRssBytes: 1,
  batches: { run, cached },
  opCalls: 0,
})

/** What is written for these events, given with the second at which they come. */
function written(isTTY: boolean, events: [seconds: number, event: Happening][], color = false): string {
  let text = ''
  const progress = new Progress(
    {
      isTTY,
      columns: 80,
      write: (more: string) => {
        text += more
      },
    },
    { color },
  )
  for (const [seconds, event] of events) progress.next({ seconds, ...event } as Event)
  progress.close()
  return text
}

t.test('for whom the run waits, until something is heard', async t => {
  const waiting = { kind: 'waiting', stage: 'clip', batch: '3/attn', silentSeconds: 30 } as const
  const events: [number, Happening][] = [
    [0, plan(stage('clip', 9))],
    [1, { kind: 'stage-started', stage: 'clip' }],
    [40, waiting],
  ]
  t.match(written(false, events), /\nclip 3\/attn: waited for; nothing new for 30 s\n$/)
  t.match(written(true, events), /clip .* 0\/9 {2}nothing new for 30 s/)
  const after = written(true, [...events, [41, { kind: 'batch-finished', stage: 'clip', batch: '0/attn', cached: false, bytes: 1 }]])
  t.notMatch(after.split('\n').at(-2), /nothing new/)
})

t.test('plain: a line at the start, at most one every few seconds, one at the end', async t => {
  const progress = Array.from({ length: 100 }, (_, i): [number, Happening] => [
    i / 10,
    { kind: 'stage-progress', stage: 'calibrate', device: 'cpu', done: i, total: 100, unit: 'tokens' },
  ])
  const text = written(false, [
    [0, plan(stage('calibrate', 9))],
    [0, { kind: 'stage-started', stage: 'calibrate' }],
    ...progress,
    [10, { kind: 'stage-finished', stage: 'calibrate', usage: usage('calibrate', 9, 0) }],
  ])
  const lines = text.trimEnd().split('\n')
  t.equal(lines[0], 'calibrate: started')
  t.match(lines[1], /^calibrate: 50 %, 10(\.0)? tokens\/s, 5\.\d s left$/)
  t.equal(lines.at(-1), 'calibrate: 9 batches in 2.0 s')
  t.ok(lines.length <= 4, `${lines.length} lines`)
  t.notMatch(text, '\u001b', 'no control codes off a terminal')
})

t.test('plain: what was stored, notes and warnings', async t => {
  t.equal(
    written(false, [
      [0, plan(stage('rht', 0, 4), stage('round', 1, 3))],
      [0, { kind: 'stage-finished', stage: 'rht', usage: usage('rht', 0, 4) }],
      [1, { kind: 'note', stage: 'round', batch: '0/attn', text: 'damping raised to 0.1' }],
      [1, { kind: 'warning', text: 'one file was damaged' }],
      [2, { kind: 'stage-finished', stage: 'round', usage: usage('round', 1, 3) }],
    ]),
    'rht: cached (4 batches)\nround 0/attn: damping raised to 0.1\nwarning: one file was damaged\nround: 1 batch in 2.0 s, 3 cached\n',
  )
})

t.test('terminal: a line a stage, redrawn in place, never wider than the screen', async t => {
  const text = written(true, [
    [0, plan(stage('rht', 0, 4), stage('round', 8, 2))],
    [0, { kind: 'stage-started', stage: 'round' }],
    [0, { kind: 'stage-finished', stage: 'rht', usage: usage('rht', 0, 4) }],
    [0.1, { kind: 'batch-finished', stage: 'round', batch: 'a', cached: true, bytes: 1, of: 10 }],
    [0.2, { kind: 'batch-finished', stage: 'round', batch: 'b', cached: true, bytes: 1, of: 10 }],
    [1, { kind: 'note', text: 'a sentence' }],
    [3, { kind: 'stage-progress', stage: 'round', batch: 'c', device: 'cpu', done: 500_000, total: 1_000_000, unit: 'weights' }],
    [4, { kind: 'batch-finished', stage: 'round', batch: 'd', cached: false, bytes: 1, of: 10 }],
  ])
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the codes are what is tested
  const frames = text.split(/\u001b\[\dA/).map(frame => frame.replace(/\u001b\[[KJ]/g, ''))
  const last = frames.at(-1) ?? ''
  t.equal(last.split('\n').length, 3, 'two stages')
  t.match(last, /^rht {4}cached \(4 batches\)\n/)
  t.match(last, /round {2}█+░+ +35 % {2}3\/10 {2}125k weights\/s {2}17 s left/, 'two were stored: 1.5 of 8 took 4 s')
  t.ok(text.includes('a sentence\n'))
  for (const line of frames.flatMap(frame => frame.split('\n'))) t.ok([...line].length < 80)
})

t.test('terminal: several devices have a line each with what they work on; one has none', async t => {
  const at = (device: string): [number, Happening] => [0, { kind: 'memory', device, liveBytes: 0, limitBytes: 1, rssBytes: 0 }]
  const events: [number, Happening][] = [
    [0, plan(stage('round', 8))],
    [0, { kind: 'stage-started', stage: 'round' }],
    at('cuda:0'),
    [1, { kind: 'batch-started', stage: 'round', batch: '0/attn', device: 'cuda:0' }],
    [1, { kind: 'batch-started', stage: 'round', batch: '0/mlp', device: 'cuda:0' }],
    [2, { kind: 'stage-progress', stage: 'round', batch: '0/attn', device: 'cuda:0', done: 45, total: 100, unit: 'weights' }],
    [3, { kind: 'batch-finished', stage: 'round', batch: '0/mlp', device: 'cuda:0', cached: false, bytes: 1, of: 8 }],
  ]
  t.notMatch(written(true, events), 'cuda')
  const two = written(true, [...events, at('cuda:1'), [4, { kind: 'batch-started', stage: 'round', batch: '1/attn', device: 'cuda:1' }]])
  t.match(two, /cuda:0 {2}round 0\/attn 45 %\S*\n/)
  t.match(two, /cuda:1 {2}round 1\/attn\S*\n/)
  const gone = written(true, [...events, at('cuda:1'), [4, { kind: 'device-lost', device: 'cuda:1', text: 'cuda:1 is not used any more' }]])
  t.match(gone, /warning: cuda:1 is not used any more\n/)
  t.notMatch(gone.split('any more')[1], 'cuda:0', 'one is left: no lines')
  t.notMatch(written(false, [...events, at('cuda:1')]), 'cuda')
})

t.test('colour only when asked for', async t => {
  const events: [number, Happening][] = [
    [0, plan(stage('rht', 1))],
    [0, { kind: 'stage-finished', stage: 'rht', usage: usage('rht', 1, 0) }],
  ]
  t.notMatch(written(true, events), '\u001b[32m')
  t.match(written(true, events, true), '\u001b[32mrht\u001b[0m')
})
