/** distill: predictions come nearer to the original's; a run stopped in the middle of an epoch ends with the same bits. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Event } from '../../pipeline/events.js'
import { close, temporary, testDevice } from '../helpers.js'
import { notes, type SmallRun, smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model, { untied: true })
const small = smallRuns(ops, folder, model)
const inner = [{ use: 'rht' }, { use: 'round', codebook: { use: 'trellis/hyb', L: 12, K: 2, Q: 9 } }]
// 48 sequences to train on, 4 a step: 12 steps an epoch, so that the state is saved in the middle of the second.
const tuning = { use: 'distill', text: small.text, sequences: 56, length: 32, validation: 8, epochs: 2, rate: 1e-3, vectorRate: 1e-3 }
const losses = ({ events }: { events: readonly Event[] }): number[] =>
  (/^distill: validation loss (\S+) before, (\S+) after/.exec(notes(events).find(note => note.startsWith('distill: v')) ?? '') ?? [])
    .slice(1)
    .map(Number)

let flat: SmallRun
let tuned: SmallRun
t.test('the loss on other text falls; vectors, norms and the head are trained, codes and embedding stay', async t => {
  flat = await small.run(inner)
  tuned = await small.run([...inner, { ...tuning, loss: 'kl' }])
  const [before = 0, after = 1] = losses(tuned)
  t.ok(after < 0.9 * before, `KL on the validation sequences ${before} → ${after}`)
  t.ok(Number(tuned.results.kl) < 0.9 * Number(flat.results.kl), `KL on other text ${flat.results.kl} → ${tuned.results.kl}`)
  const [old, now] = [flat.tensors, tuned.tensors]
  for (const [name, bytes] of now) {
    if (/\.(SU|SV)$|norm\.weight$|^lm_head\.weight$/.test(name)) t.notOk(old.get(name)?.equals(bytes), `${name} is trained`)
    else t.ok(old.get(name)?.equals(bytes), `${name} stays`)
  }
})

t.test('mixed precision trains as well', async t => {
  const [, after = 1] = losses(await small.run([...inner, { ...tuning, loss: 'kl', precision: 'bf16' }]))
  const [, exact = 0] = losses(tuned)
  t.ok(after !== exact && Math.abs(after / exact - 1) < 0.05, `KL on the validation sequences ${after}, in f32 ${exact}`)
})

t.test('cross-entropy has the same gradients, so it ends with the same bits', async t => {
  t.strictSame((await small.run([...inner, tuning])).tensors, tuned.tensors)
})

t.test('stopped in the middle of an epoch, it goes on from there, to the same bits', async t => {
  let steps = 0
  const stop = (event: Event): boolean => event.kind === 'stage-progress' && /loss/.test(event.about ?? '') && ++steps === 18
  const list = [...inner, { ...tuning, loss: 'kl' }]
  await t.rejects(small.run(list, { apart: 'stopped', stop }), { code: 'stopped' })
  const kept = join(folder, 'stopped/cache/checkpoints')
  t.ok(
    readdirSync(kept, { recursive: true, encoding: 'utf8' }).some(name => name.endsWith('state.parquet')),
    'the state was saved',
  )
  const again = await small.run(list, { apart: 'stopped' })
  const seen = again.events.filter(event => event.kind === 'stage-progress' && /loss/.test(event.about ?? '')).length
  t.equal(seen, 24 - 16, 'steps after the saved one')
  t.strictSame(again.tensors, tuned.tensors)
})

t.test('after fine-tuning inside the blocks, with tables', async t => {
  const rates = { rate: 1e-3, vectorRate: 1e-3, tableRate: 1e-3 }
  const within = { use: 'finetune', perLinear: inner, text: small.text, sequences: 16, length: 32, validation: 8, epochs: 1, ...rates }
  const result = await small.run([within, { ...tuning, sequences: 24, epochs: 1, tableRate: 1e-3 }])
  const [before = 0, after = 1] = losses(result)
  t.ok(after < before, `cross-entropy on the validation sequences ${before} → ${after}`)
})

t.test('a rate that diverges leaves the model as it was, and says so', async t => {
  const result = await small.run([...inner, { ...tuning, rate: 1e30, vectorRate: 1e30 }])
  t.match(
    notes(result.events).find(note => note.includes('no finite number')),
    /^distill: the loss was no finite number in epoch 1; the best state before is kept\. Lower the learning rates \(rate 1e\+30/,
  )
  const [old, now] = [flat.tensors, result.tensors]
  const floats = (bytes: Buffer | undefined): Float32Array => new Float32Array(Uint8Array.from(bytes ?? []).buffer)
  for (const [name, bytes] of now) {
    // SV goes with the scale into training and comes back without it, which may change its last place.
    if (name.endsWith('.SV')) close(t, floats(bytes), floats(old.get(name)), 1e-12, name)
    else if (/\.trellis$|lm_head/.test(name)) t.ok(old.get(name)?.equals(bytes), name)
  }
})

t.test('a tied head stays the embedding; text that is too short is refused', async t => {
  const tied = join(folder, 'tied-model')
  await writeSmallModel(tied)
  const runs = smallRuns(ops, join(folder), tied)
  const { tensors } = await runs.run([...inner, { ...tuning, sequences: 16, epochs: 1 }])
  t.notOk(tensors.has('lm_head.weight'))
  await t.rejects(small.run([...inner, { ...tuning, validation: 56 }]), {
    code: 'input',
    message: /The text gives 56 sequences of 32 tokens, and 56 are for validation: none is left to train on\./,
  })
})
