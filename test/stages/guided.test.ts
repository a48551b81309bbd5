/** Guided Hessians from end to end: gradients in calibrate, H a linear and group, rounded by allocate, rht, round and finetune. */
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Event } from '../../pipeline/events.js'
import { temporary, testDevice } from '../helpers.js'
import { type SmallRun, smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model)
const small = smallRuns(ops, folder, model)
const inner = [{ use: 'rht' }, { use: 'round', codebook: { use: 'trellis/hyb', L: 12, K: 2, Q: 9 } }]
const guided = { groups: 2 }
let whole: SmallRun

t.test('killed on the way back and between blocks, a run goes on to the same bits', async t => {
  whole = await small.run(inner, { guided })
  const back = (event: Event): boolean =>
    event.kind === 'stage-progress' && event.about === 'gradients' && event.done < event.total && event.done / event.total > 0.5
  await t.rejects(small.run(inner, { guided, apart: 'resumed', stop: back }), { code: 'stopped' })
  const block = (event: Event): boolean => event.kind === 'batch-finished' && event.stage === 'hessian' && event.batch === '0/a'
  await t.rejects(small.run(inner, { guided, apart: 'resumed', stop: block }), { code: 'stopped' })
  const { tensors, events } = await small.run(inner, { guided, apart: 'resumed' })
  t.notOk(
    events.some(event => event.kind === 'stage-progress' && event.about === 'gradients'),
    'gradients that are saved are not computed again',
  )
  t.strictSame(tensors, whole.tensors)
})

t.test('bits are given to linears by them, and blocks are trained', async t => {
  const tuning = { text: small.text, sequences: 12, length: 32, validation: 4, epochs: 1, rate: 1e-3, vectorRate: 1e-3 }
  const stages = [
    { use: 'allocate', bits: 2.5, K: [2, 3] },
    { use: 'finetune', ...tuning, perLinear: inner },
  ]
  const { results } = await small.run(stages, { guided })
  t.ok(Number(results.kl) < Number(whole.results.kl), `KL ${results.kl}, at 2 bits without training ${whole.results.kl}`)
})

t.test('groups that linears cannot be cut into are told in a sentence', async t => {
  for (const [groups, message] of [
    [3, /The 64 outputs of model\.layers\.0\.self_attn\.q_proj can't be cut into 3 groups/],
    [128, /can't be cut into 128 groups/],
    [0, /groups/],
  ] as const)
    await t.rejects(small.run(inner, { guided: { groups } }), { code: 'graph', message }, `${groups}`)
})
