/** gradients: squares of ∂ℓ/∂z are those of differences of ℓ in float64; a killed run goes on to the same bits. */
import { join } from 'node:path'
import t from 'tap'
import { gemmReference } from '../../../native/ops/gemm/reference.js'
import { rmsnormReference } from '../../../native/ops/rmsnorm/reference.js'
import type { Ops } from '../../../native/ops.js'
import { Gradients, type Text } from '../../../stages/calibrate/gradients.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { Rotary } from '../../../stages/model/forward.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { backends, root } from '../../helpers.js'
import { nmse, same, uniform } from '../../native/devices.js'
import { contextWith, memoryCheckpoint } from '../context.js'
import { floats } from '../run-stage.js'
import { numbers, readAll } from '../safetensors-reader.js'
import { blockReference } from '../model/block-reference.js'

const folder = join(root, 'fixtures/hf-reference/llama-gqa')
const length = 4
const random = uniform(7)
/** Three chunks: of two sequences, of one, of two. */
const chunks = [2, 1, 2].map(count => Int32Array.from({ length: count * length }, () => Math.floor(256 * random())))

/** Runs `use` with what Gradients need besides a context. */
async function withModel(ops: Ops, use: (weights: Awaited<ReturnType<typeof openWeights>>, text: Text) => Promise<void>): Promise<void> {
  const checkpoint = await openCheckpoint(folder)
  {
    using weights = await openWeights(ops, checkpoint)
    using rotary = new Rotary(ops, checkpoint.config)
    await use(weights, { chunks, length, precision: 'f32', rotary, chunkBytes: 0, blockBytes: 0, head: 'lm_head' })
  }
  await ops.finish()
  if (ops.device.liveBytes !== 0) throw new Error(`${ops.device.liveBytes} bytes are left on the device`)
}

for (const { name, skip, open } of backends) {
  t.test(`${name}: squared gradients are those of differences in float64, of mean 1 over the text`, { skip }, async t => {
    const ops = await open()
    const saved = memoryCheckpoint()
    await withModel(ops, async (weights, text) => {
      const gradients = await Gradients.open(contextWith(ops, { checkpoint: saved }), weights, text)
      const { config } = weights.checkpoint
      const { d, vocab, layers } = config.sizes
      const stored = readAll(join(folder, 'model.safetensors')).tensors
      const tensors = new Map([...stored].map(([name, tensor]) => [name, Float64Array.from(numbers(tensor))]))
      const { cos, sin } = text.rotary.of(length)
      const [cosines, sines] = [await floats(cos), await floats(sin)]
      const ids = chunks[1] as Int32Array // one sequence
      /** ℓ with `moved` told of what each linear gives. */
      const loss = (moved: (linear: string, y: Float64Array) => void): number => {
        let x: Float64Array = Float64Array.from(
          [...ids].flatMap(id => [...tensors.get('model.embed_tokens.weight')!.subarray(id * d, (id + 1) * d)]),
        )
        for (let layer = 0; layer < layers; layer++)
          x = blockReference({ config, layer, sequences: 1, length, cos: cosines, sin: sines }, tensors, x, (linear, y) =>
            moved(`model.layers.${layer}.${linear}`, y),
          )
        const normed = rmsnormReference(x, tensors.get('model.norm.weight')!, config.eps)
        const logits = gemmReference(normed, tensors.get('lm_head.weight')!, length, vocab, d, { lda: d, ldb: d, transposeB: true })
        moved('lm_head', logits)
        let sum = 0
        for (let i = 0; i + 1 < length; i++) {
          const row = logits.subarray(i * vocab, (i + 1) * vocab)
          const top = Math.max(...row)
          sum += top + Math.log(row.reduce((all, z) => all + Math.exp(z - top), 0)) - row[ids[i + 1]!]!
        }
        return sum
      }
      const own = (await saved.load('gradients.1'))!.tensors
      t.equal(Object.keys(own).length, 15, 'of every linear and of the head, where it is to be rounded')
      for (const [i, [linear, s]] of Object.entries(own).entries()) {
        if (i % 2 === 1) continue // of seven linears a block those of one that the other leaves out
        const [token, k] = [1 + (i % 2), (3 * i) % 8] // to queries and keys the first token's only look, at itself, is all the same
        const [tokens = 0, groups = 0] = s.shape
        t.strictSame([tokens, groups], [length, 8])
        const m = stored.get(`${linear}.weight`)!.shape[0]!
        const step = 1e-4
        let sum = 0
        for (let j = (k * m) / 8; j < ((k + 1) * m) / 8; j++) {
          const at = (by: number) =>
            loss((name, y) => {
              if (name === linear) y[token * m + j]! += by
            })
          sum += ((at(step) - at(-step)) / (2 * step)) ** 2
        }
        const [found, expected] = [(await floats(s))[token * 8 + k]!, sum / (m / 8)]
        t.ok(Math.abs(found / expected - 1) < 1e-3, `${linear}, token ${token}, group ${k}: ${found}, by differences ${expected}`)
        t.ok(
          (await floats(s)).subarray(8 * (length - 1)).every(x => x === 0),
          'the last token predicts nothing',
        )
      }

      const q = 'model.layers.1.self_attn.q_proj'
      const all = await Promise.all(chunks.map(async (_, i) => floats(await gradients.of(q, i))))
      const mean = all.flatMap(s => [...s]).reduce((a, b) => a + b, 0) / (8 * 5 * length)
      t.ok(Math.abs(mean - 1) < 1e-5, `mean ${mean}`)
      const raw = await floats(own[q])
      t.ok(
        nmse(
          all[1]!.map(x => x * raw[0]!),
          raw.map(x => x * all[1]![0]!),
        ) < 1e-12,
        'by one factor for all',
      )
    })
  })

  t.test(`${name}: in bf16 they are nearly those of f32`, { skip }, async t => {
    const ops = await open()
    const names = ['model.layers.0.mlp.down_proj', 'model.layers.1.self_attn.q_proj']
    await withModel(ops, async (weights, text) => {
      const [f32, bf16] = [
        await Gradients.open(contextWith(ops), weights, text),
        await Gradients.open(contextWith(ops), weights, { ...text, precision: 'bf16' }),
      ]
      for (const linear of names) {
        const [exact, found] = [await floats(await f32.of(linear, 0)), await floats(await bf16.of(linear, 0))]
        const error = nmse(found, exact)
        t.ok(error > 0 && error < 1e-2, `${linear}: NMSE ${error.toExponential(1)}`)
      }
    })
  })

  t.test(`${name}: killed on the way back, or while chunks are saved, a run goes on to the same bits`, { skip }, async t => {
    const ops = await open()
    const names = ['model.layers.0.mlp.down_proj', 'model.layers.1.self_attn.k_proj']
    const bits = (gradients: Gradients) =>
      Promise.all(names.flatMap(name => chunks.map(async (_, i) => (await gradients.of(name, i)).read())))
    await withModel(ops, async (weights, text) => {
      const whole = await bits(await Gradients.open(contextWith(ops), weights, text))

      const checkpoint = memoryCheckpoint()
      const abort = new AbortController()
      const back = contextWith(ops, {
        checkpoint,
        signal: abort.signal,
        progress: (done, total) => {
          if (done / total > 0.5) abort.abort(new Error('killed'))
        },
      })
      await t.rejects(Gradients.open(back, weights, text), { message: 'killed' })
      t.strictSame(checkpoint.names, [], 'nothing was through')

      let room = 1
      const full = {
        ...checkpoint,
        save: (...x: Parameters<typeof checkpoint.save>) => (room-- > 0 ? checkpoint.save(...x) : Promise.reject(new Error('full'))),
      }
      await t.rejects(Gradients.open(contextWith(ops, { checkpoint: full }), weights, text), { message: 'full' })
      t.strictSame(checkpoint.names, ['gradients.0'])

      const passed: number[] = []
      const rest = contextWith(ops, { checkpoint, progress: (_, total) => passed.push(total) })
      const resumed = await bits(await Gradients.open(rest, weights, text))
      t.equal(passed[0], 2, 'two chunks are left')
      t.ok(
        whole.every((bytes, i) => same(bytes, resumed[i]!)),
        'the same bits',
      )
    })
  })

  t.test(`${name}: sequences of one token have no gradients`, { skip }, async t => {
    const ops = await open()
    await withModel(ops, async (weights, text) => {
      await t.rejects(Gradients.open(contextWith(ops), weights, { ...text, length: 1 }), { code: 'input', message: /predict nothing/ })
    })
  })
}
