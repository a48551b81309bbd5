import { Type } from '@sinclair/typebox'
import t from 'tap'
import { type AnyStage, defineStage, each } from '../../pipeline/define.js'
import { diskMisfits, peakDisk } from '../../pipeline/fitting.js'
import type { StagePlan } from '../../pipeline/plan.js'
import { planText } from '../../pipeline/report.js'
import { FakeDevice, fakeOps } from './fake.js'
import { newOut, plan } from './harness.js'
import { numbersTable, stages } from './toys.js'

/** A stage that says it needs `gigabytes` for a batch. */
const sized = (name: string, gigabytes: number, more: Partial<AnyStage> = {}): AnyStage =>
  ({
    ...defineStage({
      name,
      version: 1,
      about: 'Says how much it needs.',
      params: Type.Object({}),
      input: numbersTable,
      output: numbersTable,
      estimate: () => ({ operations: 1, memory: gigabytes * 1e9, disk: 0 }),
      memory: () => gigabytes * 1e9,
      operator: _ => each(async row => ({ ...row })),
    }),
    ...more,
  }) as AnyStage

const card = { isa: 'sm_90', threads: 132, blas: '', card: 'NVIDIA H100', totalBytes: 85e9, freeBytes: 80e9 }
const gpu = () => fakeOps(Object.assign(new FakeDevice(), { kind: 'cuda' as const, name: 'cuda:0', info: () => card }))

/** A source that is only looked at, so that sizes are known before anything runs. */
const numbers = { ...(await stages.numbers?.())?.default, cache: false } as AnyStage

const planned = (first: AnyStage, second: AnyStage, memory: number) =>
  plan([{ use: 'numbers', count: 12 }, { use: first.name }, { use: second.name }], newOut(), {
    ops: gpu(),
    memory,
    stages: {
      numbers: async () => ({ default: numbers }),
      [first.name]: async () => ({ default: first }),
      [second.name]: async () => ({ default: second }),
    },
  })

t.test('a segment needs the most of its stages, for two batches, or the sum on a stream', async t => {
  const side = await planned(sized('first', 10, { cache: false }), sized('second', 30), 64e9)
  t.strictSame(side.segments, [{ stages: ['first', 'second'], leastBytes: 30e9, memoryBytes: 60e9 }])
  t.equal(side.memoryBytes, 60e9)
  t.match(side.devices, [{ name: 'cuda:0', text: 'cuda:0 NVIDIA H100', freeBytes: 80e9, totalBytes: 85e9, limitBytes: 64e9 }])
  t.strictSame(side.warnings, [])
  t.match(planText(side, { edges: false }), /\ncuda:0 has 80 GB of its 85 GB free; tensors may take 64 GB \(--memory\)\.\n/)
  const apart = await planned(sized('first', 10), sized('second', 30), 40e9)
  t.strictSame(
    apart.segments.map(({ leastBytes, memoryBytes }) => [leastBytes, memoryBytes]),
    [
      [10e9, 20e9],
      [30e9, 40e9],
    ],
    'two are let in only as far as --memory goes',
  )
  const stream = await planned(sized('first', 10, { cache: false, scope: 'stream' }), sized('second', 30, { scope: 'stream' }), 64e9)
  t.strictSame(stream.segments, [{ stages: ['first', 'second'], leastBytes: 40e9, memoryBytes: 40e9 }])
})

t.test('what does not fit is said, and what to set', async t => {
  const { warnings } = await planned(sized('first', 10), sized('second', 90), 64e9)
  t.strictSame(warnings, [
    'second may need 90 GB at a time, and cuda:0 has 80 GB free of 85 GB: it will hardly fit. End other programs, make batches or sequences smaller (pipe stages second), take a larger card, or run on the host: --device cpu.',
  ])
  const bound = await planned(sized('first', 10), sized('second', 30), 20e9)
  t.strictSame(bound.warnings, [
    'second may need 30 GB at a time, more than the 20 GB that tensors may take: give --memory 30GB, or it works by the piece and may go beyond.',
  ])
  t.match(planText(bound, { edges: false }), /\nWarning: second may need 30 GB/)
  const [close] = (await planned(sized('first', 10), sized('second', 30.04), 30.02e9)).warnings
  t.match(close, /may need 30\.1 GB at a time, more than the 30\.0 GB .* give --memory 30\.1GB,/, 'what is asked for is enough')
})

t.test('a stage that is not stored runs for each that reads it, which is said', async t => {
  const twice = (first: AnyStage) =>
    plan([{ use: 'numbers', count: 12 }, { use: 'first' }, { use: 'second' }, { use: 'third', from: ['first'] }], newOut(), {
      ops: gpu(),
      memory: 64e9,
      stages: {
        numbers: async () => ({ default: numbers }),
        first: async () => ({ default: first }),
        second: async () => ({ default: sized('second', 1) }),
        third: async () => ({ default: sized('third', 1) }),
      },
    })
  t.strictSame((await twice(sized('first', 1, { cache: false }))).warnings, [
    'first is not stored, so it runs 2 times: for second, for third. The plan’s time counts it once.',
  ])
  t.strictSame((await twice(sized('first', 1))).warnings, [])
})

t.test('the disk: checkpoints count while their segment runs, and what is stored from then on', async t => {
  const estimate = (disk: number, scratch: number) => () => ({ operations: 1, memory: 1, disk, scratch })
  const first = sized('first', 1, { cache: false, estimate: estimate(0, 9e18) })
  const small = await planned(sized('first', 1, { estimate: estimate(2e6, 5e6) }), sized('second', 1, { estimate: estimate(3e6, 0) }), 64e9)
  t.strictSame([small.diskBytes, small.peakDiskBytes, small.warnings], [5e6, 7e6, []])
  t.match(planText(small, { edges: false }), /\nstage .* disk +on the way +why\n.*\nfirst .* 2 MB +5 MB +never ran here\n/)
  t.match(planText(small, { edges: false }), /, 7 MB of disk on the way, of which 5 MB stay\.\n/)
  const large = await planned(first, sized('second', 1, { estimate: estimate(3e6, 0) }), 64e9)
  t.match(large.warnings, [
    /^The run may need 9000000 TB of disk at a time, 9000000 TB of it for checkpoints of first that go when it is done, and \S+ [GT]B are free at .*: make room there, or write elsewhere with --out\.$/,
  ])
  const stages = [
    { id: 'a', segment: -1, diskBytes: 100, scratchBytes: 100 },
    { id: 'b', segment: 0, diskBytes: 1 },
    { id: 'c', segment: 0, diskBytes: 2, scratchBytes: 10 },
    { id: 'd', segment: 1, diskBytes: 4, scratchBytes: 7 },
  ] as unknown as StagePlan[]
  t.equal(peakDisk(stages), 14, 'what will not run takes nothing')
  t.strictSame([diskMisfits(stages, 14, 'out'), diskMisfits(stages, undefined, 'out')], [[], []])
  t.equal(diskMisfits(stages, 13, 'out').length, 1)
})
