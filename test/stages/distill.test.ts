/** distill: predictions come nearer to the original's; a run stopped in the middle of an epoch ends with the same bits. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Event } from '../../pipeline/events.js'
import { close, temporary, testDevice } from '../helpers.js'
import { differing, notes, type SmallRun, smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model, { untied: true })
const small = smallRuns(ops, folder, model)
const inner = [{ use: 'rht' }, { use: 'round', codebook: { use: 'trellis/hyb', L: 12, K: 2, Q: 9 } }]
// 24 sequences to train on, 2 a step: 12 steps an epoch, so that the state is saved in the middle of the second.
const tuning = {
  use: 'distill',
  text: small.text,
  sequences: 32,
  length: 32,
  validation: 8,
  batch: 1,
  epochs: 2,
  rate: 1e-3,
  vectorRate: 1e-3,
}
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
  t.ok(Number(tuned.results.kl) < 0.95 * Number(flat.results.kl), `KL on other text ${flat.results.kl} → ${tuned.results.kl}`)
  const [old, now] = [flat.tensors, tuned.tensors]
  for (const [name, bytes] of now) {
    if (/\.(SU|SV)$|norm\.weight$|^lm_head\.weight$/.test(name)) t.notOk(old.get(name)?.equals(bytes), `${name} is trained`)
    else t.ok(old.get(name)?.equals(bytes), `${name} stays`)
  }
})

t.test('mixed precision trains as well', async t => {
  const mixed = await small.run([...inner, { ...tuning, loss: 'kl', precision: 'bf16' }])
  const [, after = 1] = losses(mixed)
  const [, exact = 0] = losses(tuned)
  t.notOk(
    [...mixed.tensors].every(([name, bytes]) => tuned.tensors.get(name)?.equals(bytes)),
    'it was another computation',
  )
  t.ok(Math.abs(after / exact - 1) < 0.05, `KL on the validation sequences ${after}, in f32 ${exact}`)
})

t.test('cross-entropy has the same gradients, so it ends with the same bits', async t => {
  t.strictSame(differing((await small.run([...inner, tuning])).tensors, tuned.tensors), [])
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
  t.strictSame(differing(again.tensors, tuned.tensors), [])
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

t.test('a tied head stays the embedding, trained or not', async t => {
  const tied = join(folder, 'tied-model')
  await writeSmallModel(tied)
  const runs = smallRuns(ops, folder, tied)
  const short = { ...tuning, sequences: 20, epochs: 1, loss: 'kl' }
  const [still, trained] = [await runs.run([...inner, short]), await runs.run([...inner, { ...short, embedding: true }])]
  for (const { tensors } of [still, trained]) t.notOk(tensors.has('lm_head.weight'))
  t.ok(differing(still.tensors, trained.tensors).includes('model.embed_tokens.weight'))
  const [[before = 0, after = 0], [first = 0, best = 1]] = [losses(still), losses(trained)]
  t.equal(first, before)
  t.ok(best < after, `KL on the validation sequences ${before} → ${after}, with the embedding trained → ${best}`)
})

t.test('an embedding that is no head is trained by what enters the blocks', async t => {
  const result = await small.run([...inner, { ...tuning, sequences: 20, epochs: 1, loss: 'kl', embedding: true }])
  const [before = 0, after = 1] = losses(result)
  t.ok(after < before)
  const [old, now] = [flat, result].map(({ tensors }) => tensors.get('model.embed_tokens.weight') as Buffer) as [Buffer, Buffer]
  const row = 4 * 64
  const changed = Array.from({ length: 2048 }, (_, id) => id).filter(
    id => !now.subarray(id * row, (id + 1) * row).equals(old.subarray(id * row, (id + 1) * row)),
  )
  t.ok(changed.length > 16 && changed.length <= 12 * 32, `${changed.length} tokens are in the text`)
})

t.test('the most likely tokens in place of all logits: near, less of them to keep; a stopped run has them', async t => {
  const list = (k: number) => [...inner, { ...tuning, teacher: { topK: k } }]
  const half = await small.run(list(1024))
  const few = await small.run(list(256))
  for (const result of [half, few]) {
    const told = notes(result.events).find(note => note.includes('most likely tokens'))
    t.match(
      told,
      /^distill: the original's \d+ most likely tokens of 1024 positions are kept, [\d.]+ MB in place of 8\.4 MB for all logits; [\d.]+ % of/,
    )
    t.ok(Number(result.results.kl) < Number(flat.results.kl), `KL on other text ${flat.results.kl} → ${result.results.kl}`)
  }
  // The model's predictions are nearly those of chance: what is left for the others is much.
  t.ok(Math.abs(Number(half.results.kl) / Number(tuned.results.kl) - 1) < 0.05, `KL ${half.results.kl}, with all ${tuned.results.kl}`)

  let steps = 0
  const stop = (event: Event): boolean => event.kind === 'stage-progress' && /loss/.test(event.about ?? '') && ++steps === 18
  await t.rejects(small.run(list(256), { apart: 'few', stop }), { code: 'stopped' })
  const again = await small.run(list(256), { apart: 'few' })
  t.notOk(
    again.events.some(event => event.kind === 'stage-progress' && event.about === 'the original'),
    'the original runs once',
  )
  t.strictSame(differing(again.tensors, few.tensors), [])
  await t.rejects(small.run(list(0)), { message: /teacher.*topK: must be >= 1, and 0 came/ })
})

t.test('text that is too short is refused, before anything runs where that is seen', async t => {
  await t.rejects(small.run([...inner, { ...tuning, validation: 32 }]), {
    code: 'graph',
    message: /validation: of 32 sequences 32 are for validation: none is left to train on\./,
  })
  const short = join(folder, 'short.txt')
  writeFileSync(short, readFileSync(small.text, 'utf8').slice(0, 300))
  await t.rejects(small.run([...inner, { ...tuning, text: short }]), {
    code: 'input',
    message: /The text gives \d sequences of 32 tokens, and 8 are for validation: none is left to train on\./,
  })
})
