/** Weights out of a quantized checkpoint are those of the formula; a checkpoint that contradicts itself is refused with a sentence. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { codebookOf } from '../../../native/codebooks/settings.js'
import { openBackend } from '../../../native/index.js'
import { hadamardFactor } from '../../../native/ops/hadamard/hadamard.js'
import { hadamardReference } from '../../../native/ops/hadamard/reference.js'
import { rng } from '../../../pipeline/random.js'
import { expectedTensors } from '../../../stages/model/architecture.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { readConfig } from '../../../stages/model/config.js'
import model from '../../../stages/model/model.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { type NewEntry, writeSafetensors } from '../../../stages/model/safetensors.js'
import { close, pipe, temporary, testDevice } from '../../helpers.js'
import { same } from '../../native/devices.js'
import { contextOf, floats, runStage } from '../run-stage.js'

const ops = await openBackend(testDevice)
type Json = Record<string, unknown>
const bytes = (x: NodeJS.ArrayBufferView) => async (): Promise<Uint8Array> => new Uint8Array(x.buffer, x.byteOffset, x.byteLength)

/** One block of a Llama whose sizes tiles of 16 don't divide; q, k, v are stored as codes, the rest dense. */
const sizes = {
  hidden_size: 24,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 12,
  intermediate_size: 40,
  num_hidden_layers: 1,
  vocab_size: 8,
}
const orders: Record<string, { m: number; n: number; transform: { m: number; n: number } }> = {
  'model.layers.0.self_attn.q_proj': { m: 24, n: 24, transform: { m: 24, n: 24 } },
  'model.layers.0.self_attn.k_proj': { m: 12, n: 24, transform: { m: 4, n: 8 } }, // blocks along the diagonal
  'model.layers.0.mlp.up_proj': { m: 40, n: 24, transform: { m: 40, n: 1 } },
}

interface Made {
  folder: string
  expected: Map<string, Float64Array>
}

async function make(t: Test, settings: { use: string } & Json, change: (config: Json) => void = () => undefined, drop = ''): Promise<Made> {
  const folder = temporary(t)
  const quantization = { quant_method: 'pipe', version: 1, codebook: settings, modules: orders }
  const config: Json = {
    architectures: ['LlamaForCausalLM'],
    ...sizes,
    tie_word_embeddings: true,
    torch_dtype: 'float32',
    quantization_config: quantization,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, quantization_config: undefined }))
  const entries: NewEntry[] = []
  const expected = new Map<string, Float64Array>()
  const { codebook, params } = codebookOf(settings)
  using codec = codebook.open(ops, params)
  for (const [name, table] of Object.entries(codec.tables)) {
    entries.push({ name: `codebook.${name}`, dtype: table.dtype, shape: table.shape, read: () => table.read() })
  }
  const { architecture, sizes: letters, steps } = readConfig(config, 'config.json')
  for (const { name, shape } of expectedTensors(architecture, letters, steps, true)) {
    const linear = name.replace('.weight', '')
    const module = orders[linear]
    if (module === undefined) {
      const values = rng(1, name).normal(shape.reduce((a, b) => a * b, 1))
      expected.set(name, Float64Array.from(values))
      entries.push({ name, dtype: 'f32', shape, read: bytes(values) })
      continue
    }
    const { m, n } = module
    const [rows, columns] = [Math.ceil(m / 16) * 16, Math.ceil(n / 16) * 16]
    // Codes of random tiles; what they decode to is the codec's own business and tested there.
    const tiles = (rows / 16) * (columns / 16)
    using z = ops.tensor(rng(1, name).normal(tiles * 256), [tiles * 16, 16])
    const { codes, values } = codec.encode(z)
    values[Symbol.dispose]()
    using packed = codec.pack(codes)
    using decoded = codec.decode(codes, rows, columns)
    codes[Symbol.dispose]()
    const [hat, trellis] = [await floats(decoded), await packed.read()]
    const su = rng(1, 'su', name).signs(n)
    const sv = rng(1, 'sv', name)
      .signs(m)
      .map(sign => 0.37 * sign)
    expected.set(name, definition(hat, columns, module, su, sv))
    const half = Uint16Array.from(su, sign => (sign > 0 ? 0x3c00 : 0xbc00)) // ±1 in f16
    entries.push(
      { name: `${linear}.trellis`, dtype: packed.dtype, shape: packed.shape, read: async () => trellis },
      { name: `${linear}.SU`, dtype: 'f16', shape: [n], read: bytes(half) },
      { name: `${linear}.SV`, dtype: 'f32', shape: [m], read: bytes(sv) },
    )
  }
  await writeSafetensors(
    join(folder, 'model.safetensors'),
    entries.filter(({ name }) => name !== drop),
  )
  change(config)
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  return { folder, expected }
}

/** diag(SV)·H_m·Ŵ·H_nᵀ·diag(SU) in float64, from the first m rows and n columns of a padded Ŵ. */
function definition(
  hat: Float32Array,
  stride: number,
  { m, n, transform }: (typeof orders)[string],
  su: Float32Array,
  sv: Float32Array,
): Float64Array {
  const blocks = (x: Float64Array, order: number): Float64Array => {
    const { K } = hadamardFactor(order)!
    return Float64Array.from({ length: x.length / order }, (_, i) => i).reduce((out, i) => {
      out.set(hadamardReference(x.subarray(i * order, (i + 1) * order), K, true), i * order)
      return out
    }, new Float64Array(x.length))
  }
  const w = new Float64Array(m * n)
  for (let i = 0; i < m; i++) w.set(blocks(Float64Array.from(hat.subarray(i * stride, i * stride + n)), transform.n), i * n) // rows: x·Hᵀ
  for (let j = 0; j < n; j++) {
    const column = blocks(
      Float64Array.from({ length: m }, (_, i) => w[i * n + j]!),
      transform.m,
    ) // columns: (xᵀ·Hᵀ)ᵀ = H·x
    for (let i = 0; i < m; i++) w[i * n + j] = sv[i]! * column[i]! * su[j]!
  }
  return w
}

const codes = [
  { use: 'scalar', K: 2 },
  { use: 'trellis/hyb', L: 12, K: 2 },
  { use: 'trellis/mul1', L: 10, K: 3 },
]
for (const settings of codes) {
  t.test(`${settings.use}: every tensor, dense, by the formula`, async t => {
    const { folder, expected } = await make(t, settings)
    const checkpoint = await openCheckpoint(folder)
    using weights = await openWeights(ops, checkpoint)
    for (const [name, values] of expected) {
      using tensor = await weights.open(name)
      t.strictSame(tensor.shape, checkpoint.expected.find(tensor => tensor.name === name)?.shape)
      close(t, await floats(tensor), values, 1e-12, name)
    }
  })
}

t.test('export gives the same weights to any program', async t => {
  const { folder, expected } = await make(t, { use: 'trellis/hyb', L: 12, K: 2 })
  const dense = join(temporary(t), 'dense')
  const { code, stderr } = await pipe(['export', folder, '--to', 'dense', '--out', dense])
  t.equal(code, 0, stderr)
  const config = JSON.parse(readFileSync(join(dense, 'config.json'), 'utf8')) as Json
  t.notOk('quantization_config' in config)
  const [before, after] = [await openCheckpoint(folder), await openCheckpoint(dense)]
  using weights = await openWeights(ops, before)
  for (const name of expected.keys()) {
    using tensor = await weights.open(name)
    t.ok(same(await tensor.read(), await after.ref(name).read()), name)
  }
})

t.test('checkpoints that contradict themselves', async t => {
  const hyb = { use: 'trellis/hyb', L: 12, K: 2 }
  const name = 'model.layers.0.self_attn.q_proj'
  const modules = (config: Json): Record<string, Json> => {
    const own = structuredClone(orders) as unknown as Record<string, Json>
    Object.assign(config.quantization_config as Json, { modules: own })
    return own
  }
  const cases: [string, (config: Json) => void, string | RegExp][] = [
    [
      'sizes',
      c => {
        modules(c)[name]!.m = 16
      },
      `"${name}" is said to be [16, 24] but is [24,24] by the sizes of the model.`,
    ],
    [
      'no such linear',
      c => {
        modules(c).lm_head = { m: 8, n: 24, transform: { m: 8, n: 24 } }
      },
      '"lm_head" is no linear of this model.',
    ],
    [
      'no such transform',
      c => {
        modules(c)[name]!.transform = { m: 3, n: 24 }
      },
      `"${name}": no Hadamard matrix of order 3 is known.`,
    ],
    [
      'transform that does not divide',
      c => {
        modules(c)[name]!.transform = { m: 16, n: 24 }
      },
      `"${name}" [24, 24] can't be made of transforms of 16 and 24.`,
    ],
    [
      'a module less',
      c => {
        delete modules(c)[name]
      },
      /"model\.layers\.0\.self_attn\.q_proj\.weight" \[24,24\] is missing/,
    ],
  ]
  for (const [label, change, message] of cases) {
    await t.rejects(openCheckpoint((await make(t, hyb, change)).folder), { name: 'PipeError', message }, label)
  }
  await t.rejects(openCheckpoint((await make(t, hyb, undefined, `${name}.SV`)).folder), {
    message: /"model\.layers\.0\.self_attn\.q_proj\.SV" \[24\] is missing/,
  })

  const other = await make(t, hyb, c => {
    ;(c.quantization_config as Json).codebook = { ...hyb, K: 3 }
  })
  using weights = await openWeights(ops, await openCheckpoint(other.folder))
  await t.rejects(
    weights.open(`${name}.weight`),
    { message: `"${name}.trellis" is i16 [4,32], not i16 [4,48] as its codebook makes it for [24, 24].` },
    'codes of another length',
  )
  const unknown = await make(t, hyb, c => {
    ;(c.quantization_config as Json).codebook = { ...hyb, L: 99 }
  })
  await t.rejects(openWeights(ops, await openCheckpoint(unknown.folder)), {
    name: 'PipeError',
    message: /^the codebook can't be opened: codebook trellis\/hyb: L: /,
  })
  const table = await make(t, hyb, c => {
    ;(c.quantization_config as Json).codebook = { ...hyb, Q: 7 }
  })
  await t.rejects(openWeights(ops, await openCheckpoint(table.folder)), {
    name: 'PipeError',
    message: /^the codebook can't be opened: trellis\/hyb: tlut must be/,
  })
  const foreign = await make(t, hyb, c => {
    const own = modules(c)
    own[name]!.table = 'trellis'
    Object.assign(c.quantization_config as Json, { version: 2 })
  })
  using others = await openWeights(ops, await openCheckpoint(foreign.folder))
  await t.rejects(others.open(`${name}.weight`), {
    name: 'PipeError',
    message: `"${name}" is said to have a table "trellis" of its own, and its code has "tlut".`,
  })
  const broken = await make(t, hyb)
  const file = readFileSync(join(broken.folder, 'model.safetensors'))
  const start = 8 + Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.subarray(8, start).toString()) as Record<string, { data_offsets: [number, number] }>
  file.writeUInt16LE(0x7e00, start + header['codebook.tlut']!.data_offsets[0])
  writeFileSync(join(broken.folder, 'model.safetensors'), file)
  await t.rejects(openWeights(ops, await openCheckpoint(broken.folder)), {
    name: 'PipeError',
    message: /^"codebook\.tlut" has 1 elements that are NaN or infinite/,
  })
  const several = await make(t, hyb, c => {
    const { modules, ...rest } = c.quantization_config as Json
    const coded = Object.entries(modules as Json).map(([linear, module]) => [linear, { ...(module as Json), code: 2 }])
    c.quantization_config = { ...rest, version: 3, more: [{ use: 'scalar' }], modules: Object.fromEntries(coded) }
  })
  await t.rejects(openCheckpoint(several.folder), { name: 'PipeError', message: /has code 2, and "more" has 1\.$/ })
})

t.test('a quantized model is not quantized again', async t => {
  const { folder } = await make(t, { use: 'scalar', K: 2 })
  await t.rejects(runStage(model, { path: folder }, [{}], contextOf(ops)), {
    name: 'PipeError',
    where: folder,
    message: 'the model is quantized already.',
  })
})

t.test('nothing is left on the device', async t => {
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
