/** The stage: a checkpoint as rows. */
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import model from '../../../stages/model/model.js'
import { readSafetensors } from '../../../stages/model/safetensors.js'
import { root, testDevice } from '../../helpers.js'
import { contextOf, runStage } from '../run-stage.js'

const ops = await openBackend(testDevice)
const rowsOf = (folder: string) => runStage(model, { path: folder }, [{}], contextOf(ops))

t.test('rows in the order of use, batches of neighbours', async t => {
  const folder = join(root, 'fixtures/hf-reference/qwen2-bias')
  const rows = await rowsOf(folder)
  const batches = rows.map(row => model.batch!(row)).filter((name, i, all) => name !== all[i - 1])
  t.strictSame(batches, ['kept/embed', 'kept/0', '0/a', '0/o', '0/b', '0/s', 'kept/1', '1/a', '1/o', '1/b', '1/s', 'kept/head'])
  t.equal(new Set(batches).size, batches.length, 'a batch is over when another begins')
  const kept = rows.filter(row => model.batch!(row) === 'kept/0').map(({ linear }) => linear.replace('model.layers.0.', ''))
  t.strictSame(kept, [
    'input_layernorm.weight',
    'post_attention_layernorm.weight',
    'self_attn.q_proj.bias',
    'self_attn.k_proj.bias',
    'self_attn.v_proj.bias',
  ])
  const [q, k] = rows.filter(({ role }) => role === 'linear')
  t.match(q, { linear: 'model.layers.0.self_attn.q_proj', shares: 'a', layer: 0, m: 112, n: 112, source: folder })
  t.match(k, { linear: 'model.layers.0.self_attn.k_proj', shares: 'a', layer: 0, m: 16, n: 112 })
})

t.test('every tensor of the file is in exactly one row, with its bytes', async t => {
  const folder = join(root, 'fixtures/tiny-llama')
  const rows = await rowsOf(folder)
  const { entries } = await readSafetensors(join(folder, 'model.safetensors'))
  const names = rows.map(({ role, linear }) => (role === 'linear' ? `${linear}.weight` : linear))
  t.strictSame([...names].sort(), [...entries.keys()].sort())
  for (const [i, row] of rows.entries()) {
    const entry = entries.get(names[i]!)!
    t.equal(row.weight.bytes, entry.bytes)
    t.equal(
      row.m * row.n,
      row.weight.shape.reduce((a, b) => a * b, 1),
    )
  }
  t.equal(rows.filter(({ role }) => role === 'linear').length, 28)
  t.equal(ops.device.liveBytes, 0, 'nothing is opened')
})

t.test('a folder that is not there', async t => {
  await t.rejects(rowsOf('/none'), {
    name: 'PipeError',
    where: '/none',
    message: 'expected a folder with config.json and *.safetensors and found nothing.',
  })
})
