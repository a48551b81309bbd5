/** Linears of one model with several codes, and some left alone: rounded, packed, written, read back; patterns that say nonsense. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../native/index.js'
import type { PipeError } from '../../pipeline/error.js'
import { openCheckpoint } from '../../stages/model/checkpoint.js'
import { openWeights } from '../../stages/model/quantized.js'
import { writeQtip } from '../../stages/model/write-qtip.js'
import { temporary, testDevice } from '../helpers.js'
import { smallRuns, writeSmallModel } from './small-model.js'
import { readAll } from './safetensors-reader.js'

const ops = await openBackend(testDevice)
const folder = temporary(t)
const model = join(folder, 'model')
await writeSmallModel(model)
const small = smallRuns(ops, folder, model)
const codebook = { use: 'trellis/hyb', L: 8, K: 2, Q: 8 }
const overrides = {
  '*.down_proj': { K: 4 },
  'model.layers.0.*': { K: 3 },
  'model.layers.1.self_attn.v_proj': { codebook: { use: 'trellis/mul1', L: 8, K: 4 } },
  '*.o_proj': 'leave',
}
const original = new Map([...readAll(join(model, 'model.safetensors')).tensors].map(([name, { bytes }]) => [name, bytes]))

/** ‖W − Ŵ‖²/‖W‖² of a linear as it is read back. */
async function errorOf(linear: string): Promise<number> {
  const checkpoint = await openCheckpoint(join(folder, 'shared/model'))
  using weights = await openWeights(ops, checkpoint)
  using dense = await weights.open(`${linear}.weight`)
  const [w, v] = [original.get(`${linear}.weight`), await dense.read()].map(
    bytes => new Float32Array(Uint8Array.from(bytes as Uint8Array).buffer),
  )
  const squares = (x: Float32Array): number => x.reduce((sum, value) => sum + value * value, 0)
  return squares((w as Float32Array).map((x, i) => x - (v?.[i] ?? 0))) / squares(w as Float32Array)
}

let mixed: ReadonlyMap<string, Buffer>
const middle = [{ use: 'rht' }, { use: 'round', codebook, overrides }]

t.test('each linear has its code, and is read back with it', async t => {
  const { tensors } = await small.run(middle)
  const config = JSON.parse(readFileSync(join(folder, 'shared/model/config.json'), 'utf8')).quantization_config
  t.equal(config.version, 3)
  const codeOf = (linear: string) => [config.codebook, ...config.more][config.modules[linear].code ?? 0]
  t.match(codeOf('model.layers.0.self_attn.q_proj'), { use: 'trellis/hyb', K: 3 })
  t.match(codeOf('model.layers.1.self_attn.q_proj'), { use: 'trellis/hyb', K: 2 })
  t.match(codeOf('model.layers.1.self_attn.v_proj'), { use: 'trellis/mul1', K: 4 })
  t.match(codeOf('model.layers.0.mlp.down_proj'), { use: 'trellis/hyb', K: 3 }, 'the pattern with more letters')
  t.match(codeOf('model.layers.1.mlp.down_proj'), { use: 'trellis/hyb', K: 4 })
  t.match(codeOf('model.layers.0.self_attn.o_proj'), { K: 3 })
  const left = 'model.layers.1.self_attn.o_proj'
  t.notOk(left in config.modules)
  mixed = tensors
  t.strictSame(mixed.get(`${left}.weight`), original.get(`${left}.weight`), 'as it was')
  const bounds = {
    'model.layers.1.self_attn.q_proj': 0.16,
    'model.layers.0.self_attn.q_proj': 0.05,
    'model.layers.1.self_attn.v_proj': 0.015,
  }
  for (const [linear, bound] of Object.entries(bounds)) {
    const error = await errorOf(linear)
    t.ok(error < bound && error > bound / 16, `${linear}: ${error} below ${bound}`)
  }
  const file = join(folder, 'shared/model/config.json')
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), model_type: 'llama' }))
  await t.rejects(writeQtip(await openCheckpoint(join(folder, 'shared/model')), join(folder, 'qtip')), {
    message: /its linears have 4 codes/,
  })
})

t.test('what patterns may be mistaken in is told before anything runs', async t => {
  const mistakes = async (wrong: object): Promise<string> => {
    const error = await small.run([{ use: 'rht' }, { use: 'round', codebook, overrides: wrong }]).catch((error: unknown) => error)
    return (error as PipeError).text
  }
  t.match(
    await mistakes({ '*.down_prj': { K: 3 } }),
    /stages\[4\] round {2}overrides "\*\.down_prj"\n.*matches none of the 14 linears\. Did you mean "\*\.down_proj"\?/,
  )
  t.match(
    await mistakes({ '*.q_proj': { K: 3 }, 'model*.q*': { K: 4 } }),
    /"model\*\.q\*" also matches model\.layers\.0\.self_attn\.q_proj, has as many letters/,
  )
  t.notOk(
    'text' in
      (await small.run([
        { use: 'rht' },
        { use: 'round', codebook: { use: 'scalar' }, overrides: { '*.q_proj': { K: 3 }, 'model*.q*': { K: 3 } } },
      ])),
  )
  t.match(
    await mistakes({ '*.q_proj': 'leav' }),
    /overrides\.\*\.q_proj: expected one of "leave", and "leav" came\. Did you mean "leave"\?/,
  )
  t.match(await mistakes({ '*.q_proj': { k: 3 } }), /"k" is no parameter of round, in "overrides\.\*\.q_proj"\. Did you mean "K"\?/)
  t.match(await mistakes({ '*.q_proj': { codebook: { use: 'trellis/hub' } } }), /unknown "trellis\/hub"\. Did you mean "trellis\/hyb"\?/)
  t.match(await mistakes({ '*.q_proj': { K: 9 } }), /K: must be <= 8/)
  const together = /overrides "\*\.q_proj"\n.*K·V, the new bits of a step, is at most 8: with V = 2, K is from 1 to 4, got 8\./
  t.match(await mistakes({ '*.q_proj': { K: 8 } }), together, 'parameters that do not go together')
})

t.test('inside fine-tuning: a linear left alone is trained with the rest, and stays in its own type', async t => {
  const tuning = { text: small.text, sequences: 24, length: 32, validation: 8, batch: 4, rate: 1e-3, vectorRate: 1e-3, perLinear: middle }
  t.strictSame((await small.run([{ use: 'finetune', ...tuning, epochs: 0 }])).tensors, mixed, 'without epochs what the flat list gives')
  const { tensors: tuned } = await small.run([{ use: 'finetune', ...tuning, epochs: 1 }])
  const left = 'model.layers.1.self_attn.o_proj.weight'
  t.equal(tuned.get(left)?.length, original.get(left)?.length)
  t.notSame(tuned.get(left), original.get(left))
  t.ok((await errorOf('model.layers.1.self_attn.o_proj')) < 0.01)
  t.ok((await errorOf('model.layers.1.mlp.down_proj')) < 0.05)
})
