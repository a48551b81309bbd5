/** Export: a checkpoint written as a plain one reads back equal, appears whole or not at all, and says when it can't. */
import { cpSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { writeDense } from '../../../stages/model/dense.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { pipe, root, temporary, testDevice } from '../../helpers.js'
import { same } from '../../native/devices.js'

const ops = await openBackend(testDevice)
const reference = join(root, 'fixtures/hf-reference/qwen2-bias')
type Json = Record<string, unknown>
const config = (folder: string): Json => JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Json

t.test('the same tensors, in one file and in shards', async t => {
  const checkpoint = await openCheckpoint(reference)
  using weights = await openWeights(ops, checkpoint)
  for (const shardBytes of [5e9, 100_000]) {
    const folder = join(temporary(t), 'nested/dense')
    const { files, dtype } = await writeDense(ops, weights, folder, { shardBytes })
    t.equal(dtype, 'f32', 'the type of the original')
    t.strictSame(files, readdirSync(folder))
    const again = await openCheckpoint(folder)
    for (const { name } of checkpoint.expected) t.ok(same(await again.ref(name).read(), await checkpoint.ref(name).read()), name)
    t.strictSame(config(folder), { ...config(reference), dtype: 'float32' })
    t.ok(files.includes('generation_config.json'))
    if (shardBytes < 5e9) {
      const shards = files.filter(file => file.endsWith('.safetensors'))
      t.ok(shards.length > 2, `${shards.length} shards`)
      t.match(shards[0], new RegExp(`^model-00001-of-000${shards.length}\\.safetensors$`))
      const index = JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8')) as { metadata: Json; weight_map: Json }
      t.equal(
        index.metadata.total_size,
        [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0),
      )
    }
  }
})

t.test('bf16 is the upper half of f32, rounded to even', async t => {
  const folder = join(temporary(t), 'dense')
  const { code, stdout } = await pipe(['export', reference, '--to', 'dense', '--dtype', 'bf16', '--out', folder])
  t.equal(code, 0)
  t.match(stdout, /files, .* MB of bf16 tensors$/m)
  t.equal(config(folder).dtype, 'bfloat16')
  const name = 'model.layers.0.mlp.up_proj.weight'
  const bits = new Uint32Array((await (await openCheckpoint(reference)).ref(name).read()).slice().buffer)
  const half = new Uint16Array((await (await openCheckpoint(folder)).ref(name).read()).slice().buffer)
  t.ok(half.every((value, i) => value === (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16))
})

t.test('two that write to one folder at once: the first to be done has it, the other is told; leftovers go when they are old', async t => {
  const parent = temporary(t)
  const folder = join(parent, 'dense')
  const yesterday = new Date(Date.now() - 48 * 3600 * 1000)
  for (const name of ['.dense.partial-old', '.dense.partial-new', '.dense.other']) mkdirSync(join(parent, name))
  writeFileSync(join(parent, '.dense.partial-old/half'), '')
  for (const name of ['.dense.partial-old', '.dense.other']) utimesSync(join(parent, name), yesterday, yesterday)
  const checkpoint = await openCheckpoint(reference)
  using weights = await openWeights(ops, checkpoint)
  const outcomes = await Promise.allSettled([0, 1].map(() => writeDense(ops, weights, folder, { shardBytes: 100_000 })))
  t.strictSame(outcomes.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  t.match(outcomes.find(({ status }) => status === 'rejected'), {
    reason: { name: 'PipeError', message: 'expected a new or an empty folder and found what another has written meanwhile.' },
  })
  const again = await openCheckpoint(folder)
  for (const { name } of checkpoint.expected) t.ok(same(await again.ref(name).read(), await checkpoint.ref(name).read()), name)
  t.strictSame(readdirSync(parent).sort(), ['.dense.other', '.dense.partial-new', 'dense'])
})

t.test("what can't be written is said, and leaves nothing", async t => {
  const parent = temporary(t)
  const full = join(parent, 'full')
  mkdirSync(full)
  writeFileSync(join(full, 'a'), '')
  using weights = await openWeights(ops, await openCheckpoint(reference))
  await t.rejects(writeDense(ops, weights, full), {
    name: 'PipeError',
    message: 'expected a new or an empty folder and found files in it.',
  })

  // A weight beyond f16's largest number, 65504.
  const large = join(parent, 'large')
  cpSync(reference, large, { recursive: true })
  const checkpoint = await openCheckpoint(large)
  const { path, offset } = checkpoint.tensors.get('model.norm.weight')!
  const file = readFileSync(path)
  file.writeFloatLE(1e5, offset)
  writeFileSync(path, file)
  using other = await openWeights(ops, checkpoint)
  await t.rejects(writeDense(ops, other, join(parent, 'out'), { dtype: 'f16' }), {
    name: 'PipeError',
    message: '"model.norm.weight" has 1 elements that are too large for f16, infinite or NaN.',
  })
  t.strictSame(readdirSync(parent).sort(), ['full', 'large'])
})
