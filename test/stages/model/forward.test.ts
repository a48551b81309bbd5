/** The forward pass against Hugging Face transformers (f32, eager attention): fixtures/hf-reference. */
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import type { Tensor } from '../../../native/tensor.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { embed, forwardBlock, Head, openBlock, Rotary } from '../../../stages/model/forward.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { readSafetensors } from '../../../stages/model/safetensors.js'
import { fileTensor } from '../../../pipeline/define.js'
import { root, testDevice } from '../../helpers.js'

const ops = await openBackend(testDevice)
const floats = async (x: { read(): Promise<Uint8Array> }): Promise<Float32Array> => new Float32Array((await x.read()).slice().buffer)

/** The largest absolute difference; NaN if there is one. */
const furthest = (a: Float32Array, b: Float32Array): number =>
  a.length === b.length ? a.reduce((max, x, i) => Math.max(max, Math.abs(x - b[i]!)), 0) : Number.NaN

for (const family of ['llama-gqa', 'llama3-rope', 'mistral-window', 'qwen2-bias', 'qwen3-qknorm']) {
  t.test(`${family}: hidden states and logits`, async t => {
    const folder = join(root, 'fixtures/hf-reference', family)
    const { entries } = await readSafetensors(join(folder, 'reference.safetensors'))
    const reference = (name: string) => {
      const entry = entries.get(name)!
      return fileTensor(entry.path, entry.offset, entry.dtype, entry.shape)
    }
    const ids = new Int32Array((await reference('input_ids').read()).slice().buffer)
    const [sequences, length] = reference('input_ids').shape as [number, number]

    const checkpoint = await openCheckpoint(folder)
    const { config } = checkpoint
    using weights = await openWeights(ops, checkpoint)
    using rotary = new Rotary(ops, config)
    let [x] = (await embed(ops, weights, [ids])) as [Tensor]
    t.ok(furthest(await floats(x), await floats(reference('hidden.0'))) <= 2e-4, 'hidden.0')
    const shares = new Set<string>()
    for (let layer = 0; layer < config.sizes.layers; layer++) {
      using block = await openBlock(ops, weights, layer)
      x = forwardBlock(ops, config, layer, block, x, rotary.of(length, sequences), (name, input) => {
        shares.add(`${name} ${input.shape}`)
        input[Symbol.dispose]()
      })
      // The last hidden state that transformers gives is after the final norm.
      if (layer + 1 === config.sizes.layers) break
      const error = furthest(await floats(x), await floats(reference(`hidden.${layer + 1}`)))
      t.ok(error <= 2e-4, `hidden.${layer + 1}: ${error}`)
    }
    {
      using head = await Head.open(ops, weights)
      using normed = head.normed(x)
      const error = furthest(await floats(normed), await floats(reference(`hidden.${config.sizes.layers}`)))
      t.ok(error <= 2e-4, `hidden.${config.sizes.layers}, after the norm: ${error}`)
      using logits = head.logits(x)
      const far = furthest(await floats(logits), await floats(reference('logits')))
      t.ok(far <= 2e-4, `logits: ${far}`)
      x[Symbol.dispose]()
    }
    const { d, h, e, f } = config.sizes
    const tokens = sequences * length
    t.strictSame(
      [...shares],
      [`a ${tokens},${d}`, `o ${tokens},${h * e}`, `b ${tokens},${d}`, `s ${tokens},${f}`],
      'inputs of linears are told once each',
    )
  })
}

t.test('nothing is left on the device', async t => {
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})
