/** Folders that can't be used are refused before anything runs, each with one sentence. */
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from '../../../native/index.js'
import { fileTensor, PipeError } from '../../../pipeline/define.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { readConfig } from '../../../stages/model/config.js'
import { openBlock } from '../../../stages/model/forward.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { type NewEntry, readSafetensors, writeSafetensors } from '../../../stages/model/safetensors.js'
import { root, temporary, testDevice } from '../../helpers.js'
import { same } from '../../native/devices.js'

const reference = (name: string): string => join(root, 'fixtures/hf-reference', name)
type Json = Record<string, unknown>

/** A copy of a reference model with its config.json changed. */
const copy = (t: Test, name: string, change: (config: Json) => void = () => undefined): string => {
  const folder = join(temporary(t), name)
  cpSync(reference(name), folder, { recursive: true })
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Json
  change(config)
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  return folder
}
/** The tensors of a model's file, to be written again. */
const entriesOf = async (folder: string): Promise<NewEntry[]> => {
  const { entries } = await readSafetensors(join(folder, 'model.safetensors'))
  return Promise.all(
    [...entries.values()].map(async ({ name, path, offset, dtype, shape }) => {
      const bytes = await fileTensor(path, offset, dtype, shape).read()
      return { name, dtype, shape, read: async () => bytes }
    }),
  )
}
const rewrite = async (folder: string, change: (entries: NewEntry[]) => NewEntry[]): Promise<void> =>
  writeSafetensors(join(folder, 'model.safetensors'), change(await entriesOf(folder)))
const shard = async (folder: string): Promise<Json> => {
  const entries = await entriesOf(folder)
  const parts = [entries.slice(0, 5), entries.slice(5)]
  const files = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
  for (const [i, part] of parts.entries()) await writeSafetensors(join(folder, files[i]!), part)
  rmSync(join(folder, 'model.safetensors'))
  return { weight_map: Object.fromEntries(parts.flatMap((part, i) => part.map(({ name }) => [name, files[i]]))) }
}
const writeIndex = (folder: string, index: unknown): void =>
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index))
const refused = (t: Test, folder: string, message: string | RegExp, label: string) =>
  t.rejects(openCheckpoint(folder), { name: 'PipeError', message }, label)

t.test('every family opens, with its linears in groups that share an input', async t => {
  for (const name of readdirSync(join(root, 'fixtures/hf-reference'))) {
    const { expected, config } = await openCheckpoint(reference(name))
    const linears = expected.filter(({ role }) => role === 'linear')
    t.equal(linears.length, 7 * config.sizes.layers, name)
    t.strictSame(
      linears.slice(0, 7).map(({ name, shares }) => `${shares} ${name.replace(/.*\.(\w+)\.weight/, '$1')}`),
      ['a q_proj', 'a k_proj', 'a v_proj', 'o o_proj', 'b up_proj', 'b gate_proj', 's down_proj'],
      name,
    )
  }
})

t.test('sharded as whole', async t => {
  const folder = copy(t, 'qwen2-bias')
  const whole = await openCheckpoint(folder)
  const before = await Promise.all(whole.expected.map(({ name }) => whole.ref(name).read()))
  writeIndex(folder, await shard(folder))
  const parts = await openCheckpoint(folder)
  t.strictSame(parts.expected, whole.expected)
  for (const [i, { name }] of parts.expected.entries()) t.ok(same(await parts.ref(name).read(), before[i]!), name)
})

t.test('folders', async t => {
  const empty = temporary(t)
  await refused(t, join(empty, 'none'), 'expected a folder with config.json and *.safetensors and found nothing.', 'missing folder')
  await refused(t, empty, 'expected this file and found none.', 'no config.json')
  const folder = copy(t, 'llama-gqa')
  await refused(t, join(folder, 'config.json'), 'expected a folder with config.json and *.safetensors and found a file.', 'a file')
  rmSync(join(folder, 'model.safetensors'))
  await refused(t, folder, 'expected model.safetensors or model.safetensors.index.json and found neither.', 'no weights')
  writeFileSync(join(folder, 'config.json'), '{"architectures": [')
  await refused(t, folder, /^is not valid JSON: /, 'config.json cut short')
  mkdirSync(join(empty, 'config.json'))
  await refused(t, empty, 'could not be read (EISDIR).', 'config.json is a folder')
})

t.test('shards', async t => {
  const folder = copy(t, 'llama-gqa')
  const index = await shard(folder)
  const map = index.weight_map as Record<string, string>
  writeIndex(folder, { weight_map: { ...map, 'model.norm.weight': 'model-00001-of-00002.safetensors' } })
  await refused(t, folder, 'lists "model.norm.weight" in model-00001-of-00002.safetensors, which does not hold it.', 'listed but absent')
  writeIndex(folder, { weight_map: { ...map, x: '../../elsewhere.safetensors' } })
  await refused(t, folder, 'names the file "../../elsewhere.safetensors", which is not in the folder itself.', 'outside the folder')
  writeIndex(folder, { weight_map: { ...map, x: '..' } })
  await refused(t, folder, 'names the file "..", which is not in the folder itself.', 'the folder above')
  writeIndex(folder, { metadata: {} })
  await refused(t, folder, 'expected "weight_map": a map from tensor to file.', 'no map')
  writeIndex(folder, null)
  await refused(t, folder, 'expected "weight_map": a map from tensor to file.', 'null')
  writeIndex(folder, index)
  rmSync(join(folder, 'model-00002-of-00002.safetensors'))
  const missing = Object.values(map).filter(file => file === 'model-00002-of-00002.safetensors').length
  await refused(
    t,
    folder,
    `the shard model-00002-of-00002.safetensors (${missing} tensors) is missing: 2 files are listed.`,
    'missing shard',
  )
})

t.test('tensors that do not fit', async t => {
  const folder = copy(t, 'llama-gqa')
  await rewrite(folder, entries => entries.filter(({ name }) => name !== 'model.layers.1.mlp.up_proj.weight'))
  await refused(
    t,
    folder,
    'the tensors do not fit config.json (llama): "model.layers.1.mlp.up_proj.weight" [176,96] is missing.',
    'missing',
  )
  const other = copy(t, 'llama-gqa')
  await rewrite(other, entries => entries.map(entry => (entry.name === 'model.norm.weight' ? { ...entry, shape: [2, 48] } : entry)))
  await refused(t, other, 'the tensors do not fit config.json (llama): "model.norm.weight" is [2,48], not [96].', 'wrong shape')
  const named = copy(t, 'llama-gqa')
  await rewrite(named, entries => [
    ...entries,
    { name: `\u001b[2J${'x'.repeat(1e5)}`, dtype: 'u8', shape: [1], read: async () => new Uint8Array(1) },
  ])
  const { text } = await openCheckpoint(named).then(
    () => ({ text: '' }),
    (error: unknown) => error as PipeError,
  )
  t.match(text, /"\\u001b\[2Jxxx/, 'what a terminal would obey is written out')
  t.ok(text.length < 3000, 'and what is too long to read is cut short')
  const whole = copy(t, 'llama-gqa')
  await rewrite(whole, entries =>
    entries.map(entry =>
      entry.name === 'model.norm.weight' ? { ...entry, dtype: 'i32', read: async () => new Uint8Array(4 * 96) } : entry,
    ),
  )
  await refused(t, whole, /"model.norm.weight" is i32, not f64 or f32 or f16 or bf16\.$/, 'weights that are whole numbers')
  await refused(
    t,
    copy(t, 'llama-gqa', config => {
      config.intermediate_size = 170
    }),
    /"model.layers.0.mlp.up_proj.weight" is \[176,96\], not \[170,96\];.*and 1 more\.$/,
    'sizes',
  )
  await refused(
    t,
    copy(t, 'llama-gqa', config => {
      config.num_hidden_layers = 1
    }),
    /"model.layers.1.input_layernorm.weight" \[96\] is no part of the architecture/,
    'more than needed',
  )
  await refused(
    t,
    copy(t, 'qwen2-bias', config => {
      config.architectures = ['LlamaForCausalLM']
    }),
    /"model.layers.0.self_attn.k_proj.bias" \[16\] is no part/,
    'unexpected bias',
  )
})

t.test('tensors that mean nothing are left out', async t => {
  const folder = copy(t, 'llama3-rope')
  await rewrite(folder, entries => [
    ...entries,
    { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dtype: 'f32', shape: [1], read: async () => new Uint8Array(4) },
    { name: 'lm_head.weight', dtype: 'f32', shape: [1], read: async () => new Uint8Array(4) }, // tied: the embedding is used
  ])
  t.strictSame([...(await openCheckpoint(folder)).unused].sort(), ['lm_head.weight', 'model.layers.0.self_attn.rotary_emb.inv_freq'])
})

t.test('config.json', async t => {
  const cases: [name: string, change: (config: Json) => void, message: string | RegExp][] = [
    [
      'unknown architecture',
      c => {
        c.architectures = ['MixtralForCausalLM']
      },
      'expected an architecture this program knows and found "MixtralForCausalLM".',
    ],
    [
      'no architecture',
      c => {
        delete c.architectures
      },
      'expected an architecture this program knows and found none.',
    ],
    [
      'activation',
      c => {
        c.hidden_act = 'gelu'
      },
      'expected the activation "silu" and found "gelu".',
    ],
    [
      'missing size',
      c => {
        delete c.hidden_size
      },
      'expected "hidden_size" and found none.',
    ],
    [
      'size of a wrong kind',
      c => {
        c.hidden_size = '96'
      },
      'expected a number under "hidden_size" and found "96".',
    ],
    [
      'size zero',
      c => {
        c.vocab_size = 0
      },
      'expected a whole number from 1 to 2^24 for "vocab_size" and found 0.',
    ],
    [
      'enormous size',
      c => {
        c.num_hidden_layers = 1e6
      },
      'expected at most 4096 blocks and found num_hidden_layers 1000000.',
    ],
    [
      'heads',
      c => {
        c.num_key_value_heads = 4
      },
      'expected num_attention_heads to be a multiple of num_key_value_heads and found 6 and 4.',
    ],
    [
      'yarn',
      c => {
        c.rope_parameters = { rope_type: 'yarn', rope_theta: 1e4, factor: 4 }
      },
      'expected rope scaling "default", "linear" or "llama3" and found "yarn".',
    ],
    [
      'dynamic, the older key',
      c => {
        delete c.rope_parameters
        c.rope_scaling = { type: 'dynamic', factor: 2 }
      },
      'expected rope scaling "default", "linear" or "llama3" and found "dynamic".',
    ],
    [
      'rope per kind of layer',
      c => {
        c.rope_parameters = { full_attention: { rope_theta: 1e4 } }
      },
      'found rope_parameters per kind of layer.',
    ],
    [
      'partial rotation',
      c => {
        c.partial_rotary_factor = 0.5
      },
      'expected all of a head to be rotated and found partial_rotary_factor 0.5.',
    ],
    [
      'no factor',
      c => {
        c.rope_parameters = { rope_type: 'linear' }
      },
      'expected a number above 0 under "factor" of the rope parameters and found undefined.',
    ],
    [
      'both keys, which say different things',
      c => {
        c.rope_scaling = { type: 'linear', factor: 4 }
      },
      'expected "rope_parameters" and "rope_scaling" to say the same and found {"rope_theta":10000,"rope_type":"default"} and {"type":"linear","factor":4}.',
    ],
    [
      'yarn, beside the newer key',
      c => {
        c.rope_scaling = { rope_type: 'yarn', factor: 4 }
      },
      'expected rope scaling "default", "linear" or "llama3" and found "yarn".',
    ],
    [
      'no object',
      c => {
        c.rope_parameters = 3
      },
      'expected an object under "rope_parameters" and found 3.',
    ],
    [
      'flag',
      c => {
        c.attention_bias = 'no'
      },
      'expected true or false under "attention_bias" and found "no".',
    ],
    [
      'quantized elsewhere',
      c => {
        c.quantization_config = { quant_method: 'gptq' }
      },
      'the model is quantized by "gptq" already.',
    ],
    [
      'our own, damaged',
      c => {
        c.quantization_config = { quant_method: 'pipe', version: 1, codebook: { use: 'scalar' }, modules: 3 }
      },
      /^"quantization_config"\/modules: /,
    ],
    [
      'our own, of a later version',
      c => {
        c.quantization_config = { quant_method: 'pipe', version: 9 }
      },
      '"quantization_config" is of version 9; read are 1, 2, 3.',
    ],
    [
      'quantized by nobody',
      c => {
        c.quantization_config = {}
      },
      '"quantization_config" has no "quant_method" that says by what the model is quantized.',
    ],
    [
      'positions',
      c => {
        c.max_position_embeddings = -1
      },
      'expected a whole number above 0 under "max_position_embeddings" and found -1.',
    ],
    [
      'unknown codebook',
      c => {
        c.quantization_config = { quant_method: 'pipe', version: 1, codebook: { use: 'toString' }, modules: {} }
      },
      'the codebook "toString" is not known.',
    ],
  ]
  for (const [label, change, message] of cases) await refused(t, copy(t, 'llama-gqa', change), message, label)
  const error = await openCheckpoint(
    copy(t, 'llama-gqa', c => {
      c.architectures = ['X']
    }),
  ).catch((error: unknown) => error as PipeError)
  t.match(error instanceof PipeError ? error.hint : '', /Known: .*LlamaForCausalLM.*Qwen3ForCausalLM/, 'known ones are listed')
})

t.test('quantized elsewhere, in a type that is not read: the files are not to blame', async t => {
  const folder = copy(t, 'llama-gqa', c => {
    c.quantization_config = { quant_method: 'fp8', activation_scheme: 'dynamic' }
  })
  const header = Buffer.from(JSON.stringify({ x: { dtype: 'F8_E4M3', shape: [1], data_offsets: [0, 1] } }))
  const size = Buffer.alloc(8)
  size.writeUInt32LE(header.length)
  writeFileSync(join(folder, 'model.safetensors'), Buffer.concat([size, header, Buffer.alloc(1)]))
  await refused(t, folder, 'the model is quantized by "fp8" already.', 'fp8')
})

t.test('config.json as older and newer transformers write it', async t => {
  const { config: newer } = await openCheckpoint(reference('llama3-rope'))
  const { config: older } = await openCheckpoint(
    copy(t, 'llama3-rope', c => {
      const { rope_theta, ...scaling } = c.rope_parameters as Json
      delete c.rope_parameters
      delete c.head_dim
      Object.assign(c, { rope_theta, rope_scaling: scaling, torch_dtype: c.dtype })
    }),
  )
  const { config: both } = await openCheckpoint(
    copy(t, 'llama3-rope', c => {
      const { rope_theta, rope_type: type, ...scaling } = c.rope_parameters as Json
      Object.assign(c, { rope_theta, rope_scaling: { type, ...scaling } })
    }),
  )
  const { config: empty } = await openCheckpoint(
    copy(t, 'llama3-rope', c => {
      Object.assign(c, { rope_scaling: c.rope_parameters, rope_parameters: {} })
    }),
  )
  t.strictSame(older.rope, newer.rope)
  t.strictSame(both.rope, newer.rope, 'both keys, which say the same')
  t.strictSame(empty.rope, newer.rope, 'an empty object says nothing')
  t.strictSame(older.sizes, newer.sizes)
  t.strictSame(newer.rope, { theta: 500000, scaling: { type: 'llama3', factor: 8, low: 1, high: 4, original: 64 } })
})

t.test('key and value heads of null are as many as attention heads, in every family', async t => {
  for (const name of ['llama-gqa', 'mistral-window', 'qwen2-bias', 'qwen3-qknorm']) {
    const config = JSON.parse(readFileSync(join(reference(name), 'config.json'), 'utf8')) as Json
    const { h, g } = readConfig({ ...config, num_key_value_heads: null }, name).sizes
    t.equal(g, h, name)
  }
})

t.test('sliding windows, layer by layer', async t => {
  const windows = async (name: string, change: (config: Json) => void) => (await openCheckpoint(copy(t, name, change))).config.windows
  t.strictSame(await windows('mistral-window', () => undefined), [16, 16])
  t.strictSame(
    await windows('mistral-window', c => {
      c.sliding_window = null
    }),
    [undefined, undefined],
    'null: none',
  )
  t.strictSame(
    await windows('mistral-window', c => {
      delete c.sliding_window
    }),
    [4096, 4096],
    'absent: the default',
  )
  t.strictSame(
    await windows('qwen2-bias', c => {
      c.sliding_window = 8
    }),
    [undefined, undefined],
    'not used',
  )
  t.strictSame(
    await windows('qwen2-bias', c => {
      Object.assign(c, { sliding_window: 8, use_sliding_window: true, max_window_layers: 1, layer_types: null })
    }),
    [undefined, 8],
  )
  t.strictSame(
    await windows('qwen2-bias', c => {
      Object.assign(c, { sliding_window: 8, use_sliding_window: true, layer_types: ['sliding_attention', 'full_attention'] })
    }),
    [8, undefined],
    'layer_types decides',
  )
  const large = copy(t, 'mistral-window', c => {
    c.sliding_window = 2 ** 53
  })
  await refused(t, large, 'expected a whole number above 0 under "sliding_window" and found 9007199254740992.', 'more than can be counted')
})

t.test('NaN weights are named when a block is opened', async t => {
  const folder = copy(t, 'llama-gqa')
  const name = 'model.layers.1.self_attn.o_proj.weight'
  await rewrite(folder, entries =>
    entries.map(entry =>
      entry.name !== name
        ? entry
        : {
            ...entry,
            read: async () => {
              const values = new Float32Array((await entry.read()).slice().buffer)
              values[5] = Number.NaN
              values[77] = Number.POSITIVE_INFINITY
              return new Uint8Array(values.buffer)
            },
          },
    ),
  )
  const ops = await openBackend(testDevice)
  using weights = await openWeights(ops, await openCheckpoint(folder))
  {
    using block = await openBlock(ops, weights, 0)
    t.ok(block)
  }
  await t.rejects(openBlock(ops, weights, 1), {
    name: 'PipeError',
    where: folder,
    message: `"${name}" has 2 elements that are NaN or infinite, of 9216.`,
  })
  await ops.finish()
  t.equal(ops.device.liveBytes, 0, 'and nothing stays on the device')
})
