import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Row } from '../../pipeline/define.js'
import { bytesTensor } from '../../pipeline/define.js'
import type { packed } from '../../schemas/tables/rounded.js'
import { writeSafetensors } from '../../stages/model/safetensors.js'
import write from '../../stages/write/write.js'
import { backends, root, temporary } from '../helpers.js'
import { contextOf, normals, ref, runStage } from './run-stage.js'
import { numbers, readAll } from './safetensors-reader.js'

const source = join(root, 'fixtures/tiny-llama')
const common = {
  layer: 0,
  source,
  weight: undefined,
  su: undefined,
  sv: undefined,
  trellis: undefined,
  table: undefined,
  codebook: '',
  scale: 0,
  proxyError: 0,
  transform: '',
}
const signs = (n: number) => normals(n, 'signs', n).map(x => (x < 0 ? -1 : 1))

function rows(): Row<typeof packed>[] {
  const linear = (name: string, proxyError: number): Row<typeof packed> => ({
    ...common,
    role: 'linear',
    linear: name,
    shares: 'a',
    m: 32,
    n: 48,
    codebook: '{"use":"trellis/hyb"}',
    scale: 0.25,
    proxyError,
    transform: '{"m":32,"n":48}',
    su: ref(signs(48), [48]),
    sv: ref(signs(32), [32]),
    trellis: bytesTensor(
      new Uint8Array(6 * 64).map((_, i) => i),
      'i16',
      [6, 32],
    ),
  })
  const kept: Row<typeof packed> = {
    ...common,
    role: 'kept',
    linear: 'model.norm.weight',
    shares: '',
    m: 0,
    n: 0,
    weight: ref(normals(16, 'norm'), [16]),
  }
  return [linear('a.q', 0.04), linear('a.k', 0.06), kept]
}

for (const { name, skip, open } of backends) {
  t.test(`${name}: what is written is what came, and the figures count its bytes`, { skip }, async t => {
    const out = temporary(t)
    const [row] = await runStage(write, {}, rows(), contextOf(await open(), undefined, { out }))
    const { tensors, metadata } = readAll(join(out, 'model/model.safetensors'))
    t.strictSame([...tensors.keys()].sort(), [
      'a.k.SU',
      'a.k.SV',
      'a.k.trellis',
      'a.q.SU',
      'a.q.SV',
      'a.q.trellis',
      'codebook.tlut',
      'model.norm.weight',
    ])
    t.strictSame(tensors.get('a.q.trellis')?.bytes, Buffer.from(new Uint8Array(6 * 64).map((_, i) => i)))
    t.strictSame(numbers(tensors.get('a.q.SU') as never), [...signs(48)])
    t.strictSame(
      numbers(tensors.get('a.q.SV') as never),
      [...signs(32)].map(s => s * 0.25),
    )
    t.strictSame(numbers(tensors.get('model.norm.weight') as never), [...normals(16, 'norm')])
    t.strictSame(JSON.parse(metadata.recipe ?? ''), { graph: 'test' })
    const bytes = 2 * (6 * 64 + 2 * 48 + 4 * 32) + 512 * 2 * 2
    t.equal(row?.bitsPerWeight, (8 * bytes) / (2 * 32 * 48))
    t.equal(row?.bytesQuantized, bytes + 64)
    t.equal(row?.proxyErrorMean, 0.05)
    t.equal(row?.proxyErrorMax, 0.06)
    const config = JSON.parse(readFileSync(join(out, 'model/config.json'), 'utf8'))
    t.match(config, {
      model_type: 'llama',
      quantization_config: {
        quant_method: 'pipe',
        version: 1,
        codebook: { use: 'trellis/hyb' },
        modules: { 'a.q': { m: 32, n: 48, transform: { m: 32, n: 48 } } },
      },
    })
    t.strictSame(readFileSync(join(out, 'model/tokenizer.json')), readFileSync(join(source, 'tokenizer.json')))
    t.ok(await write.intact?.(row as never, { out }))
    writeFileSync(join(out, 'model/config.json'), '{}')
    t.notOk(await write.intact?.(row as never, { out }), 'a changed file is noticed')
  })

  t.test(`${name}: tensors that the original does not use are no part of its size`, { skip }, async t => {
    const [folder, out] = [join(temporary(t), 'model'), temporary(t)]
    cpSync(join(root, 'fixtures/hf-reference/llama-gqa'), folder, { recursive: true })
    const file = join(folder, 'model.safetensors')
    const { tensors } = readAll(file)
    const entry = (name: string, shape: readonly number[], bytes: Uint8Array) => ({
      name,
      dtype: 'f32' as const,
      shape,
      read: async () => bytes,
    })
    await writeSafetensors(file, [
      ...[...tensors].map(([name, { shape, bytes }]) => entry(name, shape, bytes)),
      entry('model.layers.0.self_attn.rotary_emb.inv_freq', [8], new Uint8Array(32)),
    ])
    const ours = rows().map(row => ({ ...row, source: folder }))
    const [row] = await runStage(write, {}, ours, contextOf(await open(), undefined, { out }))
    t.equal(
      row?.bytesOriginal,
      [...tensors.values()].reduce((sum, { bytes }) => sum + bytes.length, 0),
    )
  })

  t.test(`${name}: shards with an index; the same rows give the same bytes`, { skip }, async t => {
    const [one, two] = [temporary(t), temporary(t)]
    const ops = await open()
    const [a] = await runStage(write, { shardBytes: 1000 }, rows(), contextOf(ops, undefined, { out: one }))
    const [b] = await runStage(write, { shardBytes: 1000 }, rows(), contextOf(ops, undefined, { out: two }))
    t.equal(a?.sha256, b?.sha256)
    const index = JSON.parse(readFileSync(join(one, 'model/model.safetensors.index.json'), 'utf8')) as {
      metadata: { total_size: number }
      weight_map: Record<string, string>
    }
    for (const [name, file] of Object.entries(index.weight_map))
      t.ok(readAll(join(one, 'model', file)).tensors.has(name), `${name} in ${file}`)
    t.ok(new Set(Object.values(index.weight_map)).size > 1)
    t.equal(index.metadata.total_size, a?.bytesQuantized)
  })

  t.test(`${name}: a folder that was there stays until the new one is whole; leftovers of a killed run go`, { skip }, async t => {
    const out = temporary(t)
    const ops = await open()
    mkdirSync(join(out, '.model.partial'))
    writeFileSync(join(out, '.model.partial/half'), 'x')
    await runStage(write, {}, rows(), contextOf(ops, undefined, { out }))
    const before = readFileSync(join(out, 'model/model.safetensors'))
    const broken = rows().map(row =>
      row.role === 'kept' ? { ...row, weight: { ...ref(new Float32Array(16), [16]), read: () => Promise.reject(new Error('disk')) } } : row,
    )
    await t.rejects(runStage(write, {}, broken as Row<typeof packed>[], contextOf(ops, undefined, { out })), { message: /disk/ })
    t.strictSame(readFileSync(join(out, 'model/model.safetensors')), before)
    await runStage(write, {}, rows(), contextOf(ops, undefined, { out }))
    t.strictSame(readdirSync(out), ['model'])
    t.notOk(existsSync(join(out, 'model/half')))
  })

  t.test(`${name}: two codes in one checkpoint: each linear says which, each code has its tables`, { skip }, async t => {
    const [a, b] = rows()
    const out = temporary(t)
    const mixed = [{ ...a, codebook: '{"use":"scalar"}' }, b] as Row<typeof packed>[]
    await runStage(write, {}, mixed, contextOf(await open(), undefined, { out }))
    const { quantization_config: config } = JSON.parse(readFileSync(join(out, 'model/config.json'), 'utf8'))
    t.match(config, { version: 3, codebook: { use: 'scalar' }, more: [{ use: 'trellis/hyb' }], modules: { 'a.k': { code: 1 } } })
    t.notOk('code' in config.modules['a.q'])
    const tables = [...readAll(join(out, 'model/model.safetensors')).tensors.keys()].filter(tensor => tensor.startsWith('codebook.'))
    t.strictSame(tables, ['codebook.1.tlut'])
    const unrounded = [{ ...a, codebook: '' }] as Row<typeof packed>[]
    await t.rejects(runStage(write, {}, unrounded, contextOf(await open(), undefined, { out })), { message: /was not rounded/ })
  })
}
