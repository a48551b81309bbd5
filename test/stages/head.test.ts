/** A head that is rounded as the linears are: what its Hessian is made of, tied or not, read back, trained, exported. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from '../../native/index.js'
import type { Tensor } from '../../native/tensor.js'
import type { Row } from '../../pipeline/define.js'
import type { linears } from '../../schemas/tables/linears.js'
import calibrate from '../../stages/calibrate/calibrate.js'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { writeDense } from '../../stages/model/dense.js'
import { embed, forwardBlock, Head, openBlock, Rotary } from '../../stages/model/forward.js'
import { Generator } from '../../stages/model/generate.js'
import model from '../../stages/model/model.js'
import { openWeights } from '../../stages/model/quantized.js'
import { greedy } from '../../stages/model/sampling.js'
import { modelWindows } from '../../stages/model/text.js'
import { writeQtip } from '../../stages/model/write-qtip.js'
import { close, temporary, testDevice } from '../helpers.js'
import { contextWith } from './context.js'
import { floats, runStage } from './run-stage.js'
import { notes, type SmallRun, smallRuns, writeSmallModel } from './small-model.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const [tied, untied] = [join(folder, 'tied'), join(folder, 'untied')]
await writeSmallModel(tied)
await writeSmallModel(untied, { untied: true })
const codebook = { use: 'trellis/hyb', L: 8, K: 2, Q: 8 }
const inner = [{ use: 'rht' }, { use: 'round', codebook, overrides: { lm_head: { K: 4 } } }]
const out = join(folder, 'shared/model')
const configOf = (path: string) => JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'))

t.test('the model gives it as its last linear; calibrate gives what leaves the final norm', async t => {
  for (const path of [tied, untied]) {
    const rows = (await runStage(model, { path, head: true }, [{}], contextWith(ops))) as Row<typeof linears>[]
    t.match(rows.at(-1), { role: 'linear', linear: 'lm_head', layer: 2, shares: 'head', m: 2048, n: 64 })
    t.equal(rows.filter(({ linear }) => /head/.test(linear)).length, 1)
    const text = join(folder, 'text.txt')
    writeFileSync(text, readFileSync(smallRuns(ops, folder, path).text, 'utf8').slice(0, 2000))
    const read = await runStage(calibrate, { text, sequences: 3, length: 16, batch: 2, precision: 'f32' }, rows, contextWith(ops))
    const chunks = read.filter(({ role, shares }) => role === 'activation' && shares === 'head').map(({ x }) => x as Tensor)
    t.strictSame(
      chunks.map(({ shape }) => shape),
      [
        [32, 64],
        [16, 64],
      ],
    )
    const checkpoint = await openCheckpoint(path)
    using weights = await openWeights(ops, checkpoint)
    using rotary = new Rotary(ops, checkpoint.config)
    const windows = await modelWindows(checkpoint, text, { length: 16, count: 3 }, () => {})
    let [x] = (await embed(ops, weights, [Int32Array.from(windows.flatMap(ids => [...ids]))])) as [Tensor]
    for (let layer = 0; layer < 2; layer++) {
      using block = await openBlock(ops, weights, layer)
      x = forwardBlock(ops, checkpoint.config, layer, block, x, rotary.of(16))
    }
    using stream = x
    using head = await Head.open(ops, weights)
    using normed = head.normed(stream)
    using given = ops.concat(chunks)
    close(t, await floats(given), await floats(normed), 1e-4, 'what the head reads')
    for (const { x } of read) (x as Tensor | undefined)?.[Symbol.dispose]()
  }
})

const equal = (a: SmallRun, b: SmallRun, name: string): boolean => a.tensors.get(name)?.equals(b.tensors.get(name) ?? Buffer.of()) === true

/** Greedy text of a folder. */
async function textOf(path: string): Promise<number[]> {
  using weights = await openWeights(ops, await openCheckpoint(path))
  using generator = await Generator.open(ops, weights)
  const made: number[] = []
  for await (const id of generator.tokens([5, 6, 7], { sampling: greedy, maxTokens: 8, uniform: () => 0 })) made.push(id)
  return made
}

async function check(t: Test, result: SmallRun): Promise<void> {
  const { tensors, results } = result
  t.ok(tensors.has('lm_head.trellis') && !tensors.has('lm_head.weight') && tensors.has('model.embed_tokens.weight'))
  t.equal(tensors.get('lm_head.trellis')?.length, (2048 * 64 * 4) / 8, 'four bits a weight')
  const config = configOf(out)
  t.equal(config.tie_word_embeddings, false)
  t.match(config.quantization_config.modules.lm_head, { m: 2048, n: 64, code: 1 })
  t.ok(Number(results.kl) > 0 && Number(results.kl) < 0.5, `KL ${results.kl}`)
  t.match(Object.keys((results.proxyError as { byLinear: object }).byLinear).length, 15)
  const dense = join(folder, `dense-${Math.round(1e9 * Number(results.kl))}`)
  using weights = await openWeights(ops, await openCheckpoint(out))
  await writeDense(ops, weights, dense)
  t.equal(configOf(dense).tie_word_embeddings, false)
  t.strictSame(await textOf(dense), await textOf(out), 'the dense export says the same')
}

t.test('untied: rounded, written and read back at bits of its own; its error is that of its code', async t => {
  const small = smallRuns(ops, folder, untied, { head: true })
  await check(t, await small.run(inner))
})

t.test('tied: the head becomes a matrix of its own, the embedding stays; trained as the others are', async t => {
  const small = smallRuns(ops, folder, tied, { head: true })
  const flat = await small.run(inner)
  await check(t, flat)
  const config = configOf(out)
  writeFileSync(join(out, 'config.json'), JSON.stringify({ ...config, model_type: 'llama' }))
  await t.rejects(writeQtip(await openCheckpoint(out), join(folder, 'qtip')), { message: /the head "lm_head" is rounded/ })

  const tuning = { text: small.text, sequences: 12, length: 32, validation: 4, epochs: 1, rate: 1e-3, vectorRate: 1e-3 }
  const inside = [{ use: 'finetune', perLinear: inner, ...tuning, batch: 4 }]
  const tuned = await small.run(inside)
  t.ok(equal(tuned, flat, 'lm_head.trellis'), 'no block is trained against the head')
  const whole = await small.run([...inner, { use: 'distill', ...tuning }])
  t.match(notes(whole.events).at(-1), /validation loss/)
  t.notOk(equal(whole, flat, 'lm_head.SU'))
  t.ok(equal(whole, flat, 'model.embed_tokens.weight'))
  t.ok(Number(whole.results.kl) < Number(flat.results.kl), `KL ${flat.results.kl} → ${whole.results.kl}`)

  const left = await small.run([{ use: 'rht' }, { use: 'round', codebook, overrides: { lm_head: 'leave' } }, { use: 'distill', ...tuning }])
  t.notOk(
    left.tensors.get('lm_head.weight')?.equals(left.tensors.get('model.embed_tokens.weight') ?? Buffer.of()),
    'left alone, it is trained by itself',
  )
})
