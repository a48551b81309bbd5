/** A model that runs from its bits gives what its decoded weights give: prompts of any length, steps, published checkpoints. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from '../../../native/index.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { Decoder } from '../../../stages/model/decoder.js'
import { writeDense } from '../../../stages/model/dense.js'
import { Generator } from '../../../stages/model/generate.js'
import { readConfig } from '../../../stages/model/config.js'
import { toDense } from '../../../stages/model/incoherence.js'
import { openWeights, type Weights } from '../../../stages/model/quantized.js'
import { randomWeights } from '../../../stages/model/shapes.js'
import { greedy } from '../../../stages/model/sampling.js'
import { countingOps, nmse, temporary, testDevice } from '../../helpers.js'
import { smallRuns, writeSmallModel } from '../small-model.js'
import { writeVector } from './qtip-folder.js'

const ops = await openBackend(testDevice)

/** Logits of prompts of these lengths, each with two steps behind it. Gives the verbs that were called as well. */
async function logitsOf(folder: string, weights: 'packed' | 'dense', lengths: readonly number[], vocab: number) {
  const { ops: counting, calls } = countingOps(ops)
  using model = await openWeights(counting, await openCheckpoint(folder))
  using decoder = await Decoder.open(counting, model, { slots: 2, positions: Math.max(...lengths) + 2, weights })
  const opening = { ...calls }
  const all: Float32Array[] = []
  for (const length of lengths) {
    const ids = Array.from({ length }, (_, i) => (i * i * 7 + 3 * i + length) % vocab)
    all.push(await decoder.prefill(0, ids), await decoder.prefill(1, ids.slice(0, 1)))
    for (const token of [1, 2]) all.push(...(await decoder.step([0, 1].map(slot => ({ slot, token: token + slot })))))
    decoder.free(0)
    decoder.free(1)
  }
  return { all, opening }
}

async function equalsDense(t: Test, folder: string, lengths: readonly number[], vocab: number, bound = 1e-7) {
  const [packed, dense] = [await logitsOf(folder, 'packed', lengths, vocab), await logitsOf(folder, 'dense', lengths, vocab)]
  for (const [i, logits] of packed.all.entries()) {
    const expected = dense.all[i]!
    const worst = logits.reduce((most, x, j) => Math.max(most, Math.abs(x - expected[j]!)), 0)
    t.ok(worst < 1e-4 * expected.reduce((most, x) => Math.max(most, Math.abs(x)), 1), `logits ${i}: ${worst}`)
    t.ok(nmse(logits, expected) < bound, `logits ${i}`)
  }
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
  return { packed: packed.opening, dense: dense.opening }
}

t.test('several codes in one checkpoint, one of them without products: logits and 200 greedy tokens of the dense export', async t => {
  const folder = temporary(t)
  await writeSmallModel(join(folder, 'original'), { untied: true }) // tied random weights say one token over and over
  const { run } = smallRuns(ops, join(folder, 'runs'), join(folder, 'original'))
  const codebook = { use: 'trellis/hyb', K: 2, order: 'tensor-core' }
  const overrides = {
    'model.layers.0.mlp.*': { codebook: { use: 'trellis/hyb', K: 3, order: 'rows' } },
    '*.o_proj': { codebook: { use: 'scalar', K: 3 } },
    'model.layers.1.self_attn.v_proj': { codebook: { use: 'trellis/hyb', K: 4 } },
  }
  await run([{ use: 'rht' }, { use: 'round', codebook, overrides }])
  const packed = join(folder, 'runs/shared/model')
  const opened = await equalsDense(t, packed, [3, 40, 400], 2048)
  // Decoded at opening: o of both blocks, in place of all fourteen (each takes a transform from the left and one from the right).
  t.equal(opened.dense.hadamard, 28)
  t.equal(opened.packed.hadamard, 4)

  {
    using weights = await openWeights(ops, await openCheckpoint(packed))
    await writeDense(ops, weights, join(folder, 'dense'), { dtype: 'f32' })
  }
  const generate = async (path: string): Promise<number[]> => {
    using weights = await openWeights(ops, await openCheckpoint(path))
    using generator = await Generator.open(ops, weights)
    const made: number[] = []
    for await (const id of generator.tokens([1, 2, 3], { sampling: greedy, maxTokens: 200, uniform: () => 0 })) made.push(id)
    return made
  }
  const [first, second] = [await generate(packed), await generate(join(folder, 'dense'))]
  t.equal(first.length, 200)
  t.ok(new Set(first).size > 4, 'not one token over and over')
  t.strictSame(first, second)
  t.strictNotSame(first, await generate(join(folder, 'original')), 'it is not the original that was opened')
})

t.test('every code: what is multiplied is what is decoded', async t => {
  const folder = temporary(t)
  await writeSmallModel(join(folder, 'original'), { untied: true })
  for (const code of ['hyb', '1mad', '3inst', 'mul1', 'mcg']) {
    const { run } = smallRuns(ops, join(folder, code), join(folder, 'original'))
    await run([{ use: 'rht' }, { use: 'round', codebook: { use: `trellis/${code}`, K: 2 } }])
    // Up to 16 rows: beyond that a GPU rounds values to f16.
    await equalsDense(t, join(folder, code, 'shared/model'), [3, 12], 2048, 1e-10)
  }
})

for (const name of ['qtip_hyb_k2', 'qtip_hyb_k4', 'qtip_1mad_k2', 'qtip_lut_l12_k2'])
  t.test(`published checkpoint, ${name}`, async t => {
    const folder = temporary(t)
    await writeVector(folder, name)
    const opened = await equalsDense(t, folder, [2, 20], 16)
    t.equal(opened.packed.hadamard ?? 0, name === 'qtip_lut_l12_k2' ? 2 : 0, 'decoded only where there is no kernel')
  })

/** Ops that a prompt of three tokens takes: products, calls that finish what they give, norms on their own. */
const cases: [
  what: string,
  family: string,
  config: object,
  dense: RegExp | undefined,
  products: number,
  finishing: number,
  norms: number,
][] = [
  // Of a layer: qkv, o, gate and up, down; what attention reads, and what leaves the last layer.
  ['Llama, all packed', 'Llama', {}, undefined, 8, 3, 1],
  ['biases after every product', 'Llama', { attention_bias: true, mlp_bias: true }, undefined, 8, 3, 1],
  ['Qwen 2: biases before attention', 'Qwen2', {}, undefined, 8, 3, 1],
  ['Qwen 3: norms of heads', 'Qwen3', { head_dim: 32 }, undefined, 8, 3, 1],
  ['a dense up beside a packed gate: the residual stream is not left', 'Llama', {}, /up_proj/, 8, 5, 3],
  ['a dense gate beside a packed up', 'Llama', {}, /gate_proj/, 8, 5, 3],
  ['a dense down: gate and up are finished', 'Llama', {}, /down_proj/, 6, 4, 1],
  ['a dense o', 'Llama', {}, /o_proj/, 6, 3, 1],
  ['a dense v: the norm is asked for by both', 'Llama', {}, /v_proj/, 8, 4, 3],
  ['a dense first layer', 'Llama', {}, /layers\.0/, 4, 2, 3],
  ['a dense last layer', 'Llama', {}, /layers\.1/, 4, 2, 3],
  ['k of other signs: two products, the second of what the first kept', 'Llama', { signs: 'k_proj' }, undefined, 10, 3, 1],
]
for (const [what, family, more, dense, products, finishing, norms] of cases)
  t.test(`${what}: what the decoded weights give`, async t => {
    const sizes = { hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 }
    const name = `${family}ForCausalLM`
    const config = readConfig({ architectures: [name], ...sizes, vocab_size: 128, rms_norm_eps: 1e-5, ...more }, name)
    const random = randomWeights(ops, config, name, { use: 'trellis/hyb', K: 2 })
    const stored = async (linear: string) => {
      const weights = await random.packed?.(linear)
      if (weights === undefined || !('signs' in more) || !linear.endsWith(`${more.signs}`)) return weights
      using su = weights.su
      return { ...weights, su: ops.scale(su, { factor: -1 }) }
    }
    const packed: Weights['packed'] = async linear => (dense?.test(linear) ? undefined : stored(linear))
    const open: Weights['open'] = async (tensor, dtype) => {
      if (tensor.endsWith('.bias') || tensor.endsWith('norm.weight')) {
        using ones = await random.open(tensor)
        return ops.tensor(
          Float32Array.from({ length: ones.size }, (_, i) => Math.cos(i) + (tensor.endsWith('.bias') ? 0 : 1.5)),
          ones.shape,
        )
      }
      const linear = /proj/.test(tensor) ? await stored(tensor.replace(/\.weight$/, '')) : undefined
      if (linear === undefined) return random.open(tensor, dtype)
      const { codec, trellis, su, sv, transform, m, n } = linear
      using codes = codec.unpack(trellis)
      using decoded = codec.decode(codes, m, n)
      const matrix = toDense(ops, decoded, su, sv, transform)
      for (const x of [trellis, su, sv]) x[Symbol.dispose]()
      return matrix
    }
    const calls = async (): Promise<number[]> => {
      await ops.finish()
      const stats = ops.device.stats()
      return ['trellis_linear', 'trellis_finish', 'rmsnorm'].map(op => stats[op]?.calls ?? 0)
    }
    const logitsOf = async (weights: 'packed' | 'dense') => {
      using decoder = await Decoder.open(ops, { ...random, open, packed }, { slots: 2, positions: 24, weights, precision: 'f32' })
      const before = await calls()
      const prompt = await decoder.prefill(0, [5, 17, 3])
      const counts = (await calls()).map((count, i) => count - before[i]!)
      // More than a product takes, which goes another way; and steps of both.
      const long = await decoder.prefill(
        1,
        Array.from({ length: 20 }, (_, i) => (i * 37) % 128),
      )
      const steps: Float32Array[] = []
      for (const token of [9, 10]) steps.push(...(await decoder.step([0, 1].map(slot => ({ slot, token: token + slot })))))
      return { logits: [prompt, long, ...steps], counts }
    }
    const [some, none] = [await logitsOf('packed'), await logitsOf('dense')]
    for (const [i, logits] of some.logits.entries()) {
      t.ok(none.logits[i]!.some(x => Math.abs(x) > 0.1))
      const error = nmse(logits, none.logits[i]!)
      t.ok(error < 1e-7, `logits ${i}: NMSE ${error}`)
    }
    t.strictSame(some.counts, [products, finishing, norms])
    t.strictSame(none.counts.slice(0, 2), [0, 0])
    random[Symbol.dispose]()
    await ops.finish()
    t.equal(ops.device.liveBytes, 0)
  })

t.test('activations in int8: near what f32 gives, for steps and prompts; refused where there are none', async t => {
  const sizes = { hidden_size: 256, intermediate_size: 688, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2 }
  const config = readConfig({ architectures: ['LlamaForCausalLM'], ...sizes, vocab_size: 128, rms_norm_eps: 1e-5 }, 'llama')
  const isCpu = ops.device.kind === 'cpu'
  for (const use of ['trellis/hyb', 'trellis/mul1']) {
    using random = randomWeights(ops, config, use, { use, K: 2 })
    const logitsOf = async (activations: 'f32' | 'int8') => {
      using decoder = await Decoder.open(ops, random, { slots: 1, positions: 110, activations })
      // Above 64 tokens f32 multiplies decoded weights, and int8 never does.
      const ids = Array.from({ length: 100 }, (_, i) => (i * 37) % 128)
      return [await decoder.prefill(0, ids), ...(await decoder.step([{ slot: 0, token: 9 }]))]
    }
    if (!isCpu) {
      await t.rejects(logitsOf('int8'), { code: 'input', message: /^activations in int8 are for the CPU, and cuda/ })
      continue
    }
    const [fine, rough] = [await logitsOf('f32'), await logitsOf('int8')]
    for (const [i, logits] of rough.entries()) {
      const error = nmse(logits, fine[i]!)
      t.ok(error > 1e-6 && error < 2e-3, `${use}, logits ${i}: ${error}`)
    }
  }
  {
    using random = randomWeights(ops, config, 'dense', undefined)
    const message = /^activations in int8 are for linears that stay packed/
    await t.rejects(Decoder.open(ops, random, { slots: 1, positions: 8, activations: 'int8' }), { code: 'input', message })
  }
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
