/** Export in the form of QTIP's published checkpoints: read back, it is the same model; what can't be expressed is said. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { codebookOf } from '../../../native/codebooks/settings.js'
import { openBackend } from '../../../native/index.js'
import { rng } from '../../../pipeline/random.js'
import { expectedTensors } from '../../../stages/model/architecture.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { readConfig } from '../../../stages/model/config.js'
import { embed, forwardBlock, Head, openBlock, Rotary } from '../../../stages/model/forward.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { type NewEntry, writeSafetensors } from '../../../stages/model/safetensors.js'
import { writeQtip } from '../../../stages/model/write-qtip.js'
import { pipe, temporary, testDevice } from '../../helpers.js'
import { same } from '../../native/devices.js'
import { readAll } from '../safetensors-reader.js'
import { bytesOf, halves, type Json } from './qtip-folder.js'

const ops = await openBackend(testDevice)

/** A Llama of one block in this project's form, v_proj dense; its codes are random walks. */
async function make(
  t: Test,
  settings: { use: string } & Json,
  change: (config: Json, modules: Record<string, Json>, entries: NewEntry[]) => void = () => undefined,
) {
  const folder = join(temporary(t), 'run', 'model')
  mkdirSync(folder, { recursive: true })
  const modules: Record<string, Json> = {}
  const config: Json = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    dtype: 'float32',
    hidden_size: 64,
    intermediate_size: 96,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    num_hidden_layers: 1,
    vocab_size: 32,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
    rope_parameters: { rope_type: 'linear', factor: 2, rope_theta: 500 },
  }
  const { architecture, sizes, steps } = readConfig(config, 'config.json')
  const { codebook, params } = codebookOf(settings)
  using codec = codebook.open(ops, params)
  const entries: NewEntry[] = Object.entries(codec.tables).map(([name, table]) => ({
    name: `codebook.${name}`,
    dtype: table.dtype,
    shape: table.shape,
    read: () => table.read(),
  }))
  for (const { name, shape, role } of expectedTensors(architecture, sizes, steps, true)) {
    const linear = name.replace(/\.weight$/, '')
    const [m = 1, n = 1] = shape
    if (role === 'kept' || linear.endsWith('v_proj')) {
      entries.push({ name, dtype: 'f32', shape, read: bytesOf(rng(1, name).normal(m * n)) })
      continue
    }
    using codes = walks(settings, (m / 16) * (n / 16))
    using packed = codec.pack(codes)
    const trellis = await packed.read()
    modules[linear] = { m, n, transform: { m, n } }
    entries.push(
      { name: `${linear}.trellis`, dtype: 'i16', shape: packed.shape, read: async () => trellis },
      { name: `${linear}.SU`, dtype: 'f16', shape: [n], read: bytesOf(halves(Float64Array.from(rng(1, 'su', linear).signs(n)))) },
      {
        name: `${linear}.SV`,
        dtype: 'f32',
        shape: [m],
        read: bytesOf(
          rng(1, 'sv', linear)
            .signs(m)
            .map(sign => 0.11 * sign),
        ),
      },
    )
  }
  change(config, modules, entries)
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({
      ...config,
      quantization_config: { quant_method: 'pipe', version: 2, codebook: { use: codebook.name, ...params }, modules },
    }),
  )
  await writeSafetensors(join(folder, 'model.safetensors'), entries)
  return folder
}

/** u16 [tiles, steps]: every bit string closed to a circle is a walk. */
function walks({ L = 16, K = 2, V = 1, use }: Json, tiles: number) {
  const KV = Number(K) * (use === 'trellis/hyb' ? 2 : Number(V))
  const steps = (256 * Number(K)) / KV
  const codes = new Uint16Array(tiles * steps)
  for (let tile = 0; tile < tiles; tile++) {
    const bits = rng(3, 'walk', tile).signs(steps * KV)
    for (let step = 0; step < steps; step++) {
      let state = 0
      for (let bit = 0; bit < Number(L); bit++) state = 2 * state + (bits[(step * KV + bit) % (steps * KV)]! > 0 ? 1 : 0)
      codes[tile * steps + step] = state
    }
  }
  return ops.tensor(codes, [tiles, steps])
}

async function logits(folder: string): Promise<Uint8Array> {
  using weights = await openWeights(ops, await openCheckpoint(folder))
  const { config } = weights.checkpoint
  using block = await openBlock(ops, weights, 0)
  using head = await Head.open(ops, weights)
  using rotary = new Rotary(ops, config)
  const [x] = await embed(ops, weights, [Int32Array.from({ length: 24 }, (_, i) => (7 * i) % 32)])
  using out = forwardBlock(ops, config, 0, block, x!, rotary.of(24))
  using y = head.logits(out)
  return await y.read()
}

const hyb = { use: 'trellis/hyb', L: 16, K: 2, Q: 9 }
for (const [settings, expected] of [
  [
    { ...hyb, K: 3, order: 'tensor-core' },
    { L: 16, K: 3, V: 2, tlut_bits: 9, decode_mode: 'quantlut_sym' },
  ],
  [
    { ...hyb, L: 12 },
    { L: 12, K: 2, V: 2, tlut_bits: 9, decode_mode: 'quantlut_sym' },
  ],
  [
    { use: 'trellis/1mad', L: 12, K: 4 },
    { L: 12, K: 4, V: 1, tlut_bits: 0, decode_mode: '1mad' },
  ],
  [
    { use: 'trellis/3inst', L: 10, K: 3 },
    { L: 10, K: 3, V: 1, tlut_bits: 0, decode_mode: '3inst' },
  ],
  [
    { use: 'trellis/lut', L: 9, K: 2, V: 2 },
    { L: 9, K: 2, V: 2, tlut_bits: 9, decode_mode: 'lut' },
  ],
] as [{ use: string } & Json, Json][]) {
  t.test(`${JSON.stringify(settings)}: written, read back: equal logits`, async t => {
    const folder = await make(t, settings)
    const hf = join(temporary(t), 'hf')
    await writeQtip(await openCheckpoint(folder), hf)
    t.ok(same(await logits(hf), await logits(folder)))
    const config = JSON.parse(readFileSync(join(hf, 'config.json'), 'utf8')) as Json
    t.strictSame(config.quip_params, {
      codebook: 'bitshift',
      codebook_version: 0,
      td_x: 16,
      td_y: 16,
      split_for_tp: false,
      skip_list: ['0_v'],
      ...expected,
    })
    t.match(config, { torch_dtype: 'float32', rope_theta: 500, rope_scaling: { rope_type: 'linear', factor: 2 } })
    for (const gone of ['quantization_config', 'rope_parameters', 'dtype']) t.notOk(gone in config, gone)
    const { tensors, metadata } = readAll(join(hf, 'model.safetensors'))
    t.equal(metadata.format, 'pt')
    const q = 'model.layers.0.self_attn.q_proj'
    const K = Number(expected.K)
    const shapes = Object.fromEntries(
      [...tensors].filter(([name]) => name.startsWith(q)).map(([name, { dtype, shape }]) => [name, [dtype, ...shape]]),
    )
    t.strictSame(shapes, {
      [`${q}.trellis`]: ['I16', 16, 16 * K],
      [`${q}.SU`]: ['F16', 64],
      [`${q}.SV`]: ['F32', 64],
      ...(expected.tlut_bits === 0 ? {} : { [`${q}.tlut`]: ['F16', 512, 2] }),
      [`${q}.rcp`]: ['I64'],
      [`${q}.tp_rank`]: ['I64'],
    })
    t.equal(tensors.get(`${q}.rcp`)?.bytes.readBigInt64LE(0), 0n)
    t.equal(tensors.get(`${q}.tp_rank`)?.bytes.readBigInt64LE(0), 8n)
    t.ok(tensors.has('model.layers.0.self_attn.v_proj.weight'))
    t.notOk([...tensors.keys()].some(name => name.startsWith('codebook.')))
  })
}

t.test('a table of a linear of its own goes with it', async t => {
  const own = 'model.layers.0.self_attn.k_proj'
  const folder = await make(t, { ...hyb, L: 12 }, (_, modules, entries) => {
    modules[own]!.table = 'tlut'
    entries.push({
      name: `${own}.tlut`,
      dtype: 'f16',
      shape: [512, 2],
      read: bytesOf(Uint16Array.from({ length: 1024 }, (_, i) => 0x3800 + i)),
    })
  })
  const hf = join(temporary(t), 'hf')
  await writeQtip(await openCheckpoint(folder), hf)
  t.ok(same(await logits(hf), await logits(folder)))
  const { tensors } = readAll(join(hf, 'model.safetensors'))
  t.equal(tensors.get(`${own}.tlut`)?.bytes.readUInt16LE(2), 0x3801)
  t.not(tensors.get(`${own.replace('k_', 'q_')}.tlut`)?.bytes.readUInt16LE(2), 0x3801)
})

t.test('what that form has no words for', async t => {
  const mad = { use: 'trellis/1mad', L: 10, K: 2 }
  const cases: [Json & { use: string }, Parameters<typeof make>[2], string | RegExp][] = [
    [hyb, undefined, /were rounded in the order "rows"/],
    [{ ...hyb, L: 12, order: 'tensor-core' }, undefined, /in the order "rows", and here they were rounded in the order "tensor-core"/],
    [
      hyb, // its order is wrong, too, but rounding again for that would not help
      (_, modules) => {
        modules['model.layers.0.self_attn.q_proj']!.transform = { m: 32, n: 64 }
      },
      '"model.layers.0.self_attn.q_proj" is transformed by 64 in blocks of 32',
    ],
    [{ use: 'trellis/mul1', L: 10, K: 2 }, undefined, 'it has no code like trellis/mul1'],
    [
      mad,
      (_, modules) => {
        modules['model.layers.0.self_attn.q_proj']!.transform = { m: 32, n: 64 }
      },
      '"model.layers.0.self_attn.q_proj" is transformed by 64 in blocks of 32, and there is one matrix for all of a side',
    ],
    [
      mad,
      config => {
        config.model_type = 'mistral'
      },
      'its program reads models of the type "llama", and this is "mistral"',
    ],
  ]
  for (const [settings, change, message] of cases) {
    const checkpoint = await openCheckpoint(await make(t, settings, change))
    const error = (await writeQtip(checkpoint, join(temporary(t), 'hf')).catch((error: unknown) => error)) as Error
    t.equal(error.name, 'PipeError')
    t.match(error.message, message)
    t.match(error.message, "QTIP's form can't express it: ")
  }
})

t.test('"rope_scaling" stays where the newer key says nothing', async t => {
  const scaling = { type: 'linear', factor: 2 }
  for (const rope_parameters of [null, {}]) {
    const folder = await make(t, { use: 'trellis/1mad', L: 10, K: 2 }, config =>
      Object.assign(config, { rope_parameters, rope_theta: 500, rope_scaling: scaling }),
    )
    const hf = join(temporary(t), 'hf')
    await writeQtip(await openCheckpoint(folder), hf)
    t.match(JSON.parse(readFileSync(join(hf, 'config.json'), 'utf8')), { rope_theta: 500, rope_scaling: scaling })
  }
})

t.test("on the command line: the folder of a run goes in; what can't go is said", async t => {
  const folder = await make(t, { use: 'trellis/1mad', L: 10, K: 2 })
  const hf = join(temporary(t), 'hf')
  const { code, stdout, stderr } = await pipe(['export', join(folder, '..'), '--to', 'qtip-hf', '--out', hf])
  t.equal(code, 0, stderr)
  t.match(stdout, /hf: 2 files, .* MB of tensors/)
  const again = await pipe(['export', hf, '--to', 'qtip-hf', '--out', `${hf}2`])
  t.equal(again.code, 1)
  t.match(again.stderr, "QTIP's form can't express it: it is in that form already.")
  t.notMatch(again.stderr, /\n\s+at /)
})

t.test('nothing is left on the device', async t => {
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
