/** What bench counts and says, on models that take no time; how fast anything is is not tested. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import { measure } from '../../../stages/model/bench.js'
import { readConfig } from '../../../stages/model/config.js'
import { randomWeights, shapeNames, shapeOf } from '../../../stages/model/shapes.js'
import { root, temporary, testDevice } from '../../helpers.js'
import { pipe } from '../../pipeline/commands/in-process.js'

const ops = await openBackend(testDevice)
const [d, f, layers, vocab] = [128, 192, 2, 320]
const config = readConfig(
  {
    architectures: ['LlamaForCausalLM'],
    hidden_size: d,
    intermediate_size: f,
    num_hidden_layers: layers,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: vocab,
    rms_norm_eps: 1e-5,
  },
  'small',
)
const linears = layers * (2 * d * d + d * d + 3 * d * f)
/** Of an entry of embedding and head, stored in bf16: a CPU multiplies by them as they are. */
const entry = ops.device.kind === 'cpu' ? 2 : 4
const options = { prompt: 20, tokens: 6, cache: 'f32' } as const

for (const [code, K, batch] of [
  ['hyb', 2, 1],
  ['mul1', 3, 3],
] as const)
  t.test(`random weights, ${code} ${K} bits, ${batch} at a time: the bytes that a step reads`, async t => {
    using weights = randomWeights(ops, config, 'small', { use: `trellis/${code}`, K })
    const result = await measure(ops, weights, { ...options, batch, weights: 'packed' })
    const norms = (2 * layers + 1) * d
    const cache = 2 * layers * 2 * 32 * 4 * (20 + 4 + 3) * batch
    t.equal(result.bytesPerStep, (linears * K) / 8 + 4 * norms + entry * vocab * d + cache)
    t.ok(result.firstToken > 0 && result.step > 0 && result.copyBandwidth > 0)
    t.ok(Math.abs(result.tokensPerSecond * result.step - batch) < 1e-9)
    t.ok(Math.abs(result.share * result.bound - result.tokensPerSecond) < 1e-6)
    t.equal(result.form, ops.device.kind === 'cuda' ? 'graph' : 'ops')
  })

t.test('dense random weights', async t => {
  using weights = randomWeights(ops, config, 'small', undefined)
  const result = await measure(ops, weights, { ...options, batch: 2, weights: 'dense' })
  t.ok(result.bytesPerStep > 4 * linears)
  t.ok(result.bytesHeld >= 4 * linears + 2 * entry * vocab * d)
})

t.test('every shape there is can be made of known transforms', async t => {
  t.ok(shapeNames().length > 10)
  for (const name of shapeNames()) t.ok(shapeOf(name).sizes.layers > 0, name)
  t.match(shapeOf('llama-2-7b').sizes, { d: 4096, f: 11008, layers: 32, h: 32, g: 32, e: 128, vocab: 32000 })
  t.match(shapeOf('qwen3-8b').sizes, { d: 4096, f: 12288, layers: 36, h: 32, g: 8, e: 128 })
})

t.test('pipe bench: what it says, and what it writes', async t => {
  const json = join(temporary(t), 'bench.json')
  const { code, stdout, stderr } = await pipe([
    'bench',
    join(root, 'fixtures/tiny-llama'),
    ...['--prompt', '16', '--tokens', '4', '--device', 'cpu', '--json', json],
  ])
  t.equal(code, 0, stderr)
  t.match(stdout, /^prompt {4}[\d.]+ tokens\/s, first token after .* \(16 tokens\)\ndecoding {2}[\d.]+ tokens\/s, [\d.]+ ms a step\nreads /)
  t.match(JSON.parse(readFileSync(json, 'utf8')), {
    batch: 1,
    prompt: 16,
    tokens: 4,
    weights: 'packed',
    device: { name: 'cpu' },
    form: 'ops',
  })
})

t.test('pipe bench: mistakes', async t => {
  for (const [args, text] of [
    [['--shape', 'llama-2-8b'], /^--shape llama-2-8b\n {2}no such shape\.\n {2}Known: llama-2-7b, /],
    [[], /^pipe bench\n {2}expected a folder or a --shape and found neither\.\n/],
    [['fixtures/tiny-llama', '--shape', 'llama-2-7b'], /found both/],
    [['fixtures/tiny-llama', '--bits', '3'], /^--bits\n {2}is of the random weights of a --shape/],
    [[join(root, 'fixtures/tiny-llama'), '--prompt', '600'], /the model was made for 512 positions/],
  ] as const) {
    const { code, stdout, stderr } = await pipe(['bench', ...args])
    t.equal(code, 1)
    t.equal(stdout, '')
    t.match(stderr, text)
  }
})
