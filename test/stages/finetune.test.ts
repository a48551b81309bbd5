/** finetune: without epochs the flat list; with them a lower loss; the same bits again, in one run or two. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { Event, RunResult } from '../../pipeline/events.js'
import { temporary, testDevice } from '../helpers.js'
import { differing, notes, type SmallRun, smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model)
const small = smallRuns(ops, folder, model)
const codebook = { use: 'trellis/hyb', L: 12, K: 2, Q: 9 }
const tuning = { text: small.text, sequences: 40, length: 32, validation: 8, epochs: 1, batch: 4, rate: 1e-3, vectorRate: 1e-3 }
const inner = [{ use: 'rht' }, { use: 'round', codebook }]

/** The validation loss of each block when its last linear was done. */
const losses = ({ events }: { events: readonly Event[] }): number[] =>
  notes(events).flatMap(note => Number(/^layer .* (\S+) at the end$/.exec(note)?.[1] ?? Number.NaN) || [])
const kl = (result: RunResult): number => Number(result.results.kl)
let flat: SmallRun
let tuned: SmallRun

t.test('without epochs it gives, bit for bit, what the flat list gives', async t => {
  flat = await small.run(inner)
  const none = await small.run([{ use: 'finetune', ...tuning, perLinear: inner, epochs: 0 }])
  t.strictSame(differing(none.tensors, flat.tensors), [])
})

t.test('training brings each block nearer to the original', async t => {
  const still = losses(await small.run([{ use: 'finetune', ...tuning, perLinear: inner, rate: 0, vectorRate: 0 }]))
  tuned = await small.run([{ use: 'finetune', ...tuning, perLinear: inner }])
  t.equal(still.length, 2, 'a sentence a block')
  for (const [layer, loss] of losses(tuned).entries())
    t.ok(loss < (still[layer] ?? 0), `layer ${layer}: validation loss ${loss}, without training ${still[layer]}`)
  const [before, after] = [flat.tensors, tuned.tensors]
  for (const name of ['model.layers.0.input_layernorm.weight', 'model.layers.1.mlp.down_proj.SV', 'model.layers.0.self_attn.v_proj.SU'])
    t.notSame(after.get(name), before.get(name), `${name} was trained`)
  t.notOk(differing(before, after).includes('model.embed_tokens.weight'), 'the embedding was not')
})

t.test('mixed precision trains as well', async t => {
  const mixed = await small.run([{ use: 'finetune', ...tuning, perLinear: inner, precision: 'bf16' }])
  for (const [layer, loss] of losses(mixed).entries()) {
    const exact = losses(tuned)[layer] ?? 0
    t.ok(loss < 1.1 * exact, `layer ${layer}: validation loss ${loss}, in f32 ${exact}`)
  }
  t.notSame(differing(mixed.tensors, tuned.tensors), [], 'its gradients are rounded')
})

t.test('the same bits again, and when a run is stopped between blocks and goes on', async t => {
  const stop = (event: Event): boolean => event.kind === 'batch-finished' && event.stage === 'finetune' && event.batch === 'block/0'
  await t.rejects(small.run([{ use: 'finetune', ...tuning, perLinear: inner }], { apart: 'resumed', stop }), { code: 'stopped' })
  t.ok(existsSync(join(folder, 'resumed/cache/checkpoints')), 'what entered the block was kept')
  const { stages: done, tensors } = await small.run([{ use: 'finetune', ...tuning, perLinear: inner }], { apart: 'resumed' })
  t.match(done.find(({ id }) => id === 'finetune')?.batches, { run: 2 })
  t.strictSame(differing(tensors, tuned.tensors), [])
})

t.test('tables are trained when asked for, each linear its own', async t => {
  // Of one epoch a block's last steps may bring nothing, by the seed or the device, and then tables are left as they were.
  const longer = { ...tuning, perLinear: inner, epochs: 3 }
  const without = await small.run([{ use: 'finetune', ...longer }])
  const result = await small.run([{ use: 'finetune', ...longer, tableRate: 1e-3 }])
  const [still, own] = [losses(without), losses(result)]
  t.ok((own[0] ?? 1) < (still[0] ?? 0) && (own[1] ?? 1) < (still[1] ?? 0), `validation losses ${own} below ${still}`)
  t.ok(Math.abs(kl(result) / kl(without) - 1) < 0.5, `KL ${kl(result)} of the written model, ${kl(without)} without tables`)
  const tables = [...result.tensors].filter(([name]) => /tlut$/.test(name))
  t.equal(new Set(tables.map(([, bytes]) => bytes.toString('hex'))).size, 2 * 7 + 1, 'one a linear, and the code has its own')
})

t.test('a rate that diverges: the best state is kept, and said so', async t => {
  const result = await small.run([{ use: 'finetune', ...tuning, perLinear: inner, rate: 1e30, vectorRate: 1e30 }])
  t.match(
    notes(result.events).find(note => note.includes('no finite number')),
    /finetune model\.layers\.0\.self_attn\.v_proj: the loss was no finite number in epoch 1; the best state before is kept\. Lower the learning rates \(rate 1e\+30/,
  )
  t.ok(Number.isFinite(kl(result)) && kl(result) < 1.3 * kl(flat), `KL ${kl(result)}, without training ${kl(flat)}`)
})

t.test('a validation split larger than the text is refused in a sentence', async t => {
  await t.rejects(small.run([{ use: 'finetune', ...tuning, perLinear: inner, validation: 40 }]), {
    code: 'graph',
    message: /validation: of 40 sequences 40 are for validation: none is left to train on\./,
  })
  const short = join(folder, 'short.txt')
  writeFileSync(short, readFileSync(small.text, 'utf8').slice(0, 300))
  await t.rejects(small.run([{ use: 'finetune', ...tuning, perLinear: inner, text: short, validation: 30 }]), {
    code: 'input',
    message: /The text gives \d sequences of 32 tokens, and 30 are for validation: none is left to train on\./,
  })
})
