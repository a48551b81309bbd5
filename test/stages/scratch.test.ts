/** What stages say that their checkpoints take on disk, beside what they save. */
import { Value } from '@sinclair/typebox/value'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { KnownRow } from '../../pipeline/define.js'
import calibrate from '../../stages/calibrate/calibrate.js'
import { Sequences } from '../../stages/model/sequences.js'
import model from '../../stages/model/model.js'
import { savedStreams, sizesOf } from '../../stages/model/sizes.js'
import { testDevice } from '../helpers.js'
import { contextWith, memoryCheckpoint } from './context.js'
import { runStage } from './run-stage.js'

const ops = await openBackend(testDevice)
const rows = await runStage(model, { path: 'fixtures/tiny-llama' }, [{}], contextWith(ops))

for (const gradients of [false, true])
  t.test(`calibrate${gradients ? ' with gradients' : ''}: what is saved at a time is what it says`, async t => {
    const params = { text: 'fixtures/tiny-llama/calibration.jsonl', sequences: 3, length: 16, batch: 2, gradients }
    const checkpoint = memoryCheckpoint()
    for (const { x } of await runStage(calibrate, params, rows as never, contextWith(ops, { checkpoint })))
      (x as Disposable | undefined)?.[Symbol.dispose]()
    const whole = Value.Default(calibrate.params, params) as never
    const said = calibrate.estimate?.(rows as unknown as KnownRow[], whole).scratch
    t.equal(checkpoint.peakBytes, said)
    t.equal(
      said,
      4 * 3 * 16 * (3 * 256 + (gradients ? 8 * 7 * 4 : 0)),
      'three streams of 256 numbers a token; 8 means of each of 28 linears',
    )
  })

t.test('sequences: three streams, the one that leaves the last block included', async t => {
  const checkpoint = memoryCheckpoint()
  using sequences = await Sequences.open(contextWith(ops, { checkpoint }), 2, 4, 4 * 2 * 5 * 256)
  sequences.start([ops.zeros('f32', [5, 256]), ops.zeros('f32', [5, 256])])
  for (; sequences.layer < 4; await sequences.advance()) await sequences.pass(x => x)
  t.equal(checkpoint.peakBytes, savedStreams(sizesOf(rows as unknown as KnownRow[]), 10, { last: true }))
  const oneBlock = rows.filter(({ role, layer }) => role === 'kept' || layer === 0) as unknown as KnownRow[]
  t.strictSame([savedStreams(sizesOf(oneBlock), 10), savedStreams(sizesOf(oneBlock), 10, { last: true })], [0, 4 * 256 * 10])
})
