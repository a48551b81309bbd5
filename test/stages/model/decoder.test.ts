/** Slots of a decoder: each holds a text of its own, whatever is beside it; and what it refuses. */
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from '../../../native/index.js'
import { rng } from '../../../pipeline/random.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { readConfig } from '../../../stages/model/config.js'
import { Decoder } from '../../../stages/model/decoder.js'
import { OpenModel } from '../../../stages/model/open-model.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { randomWeights } from '../../../stages/model/shapes.js'
import { nmse, root, testDevice } from '../../helpers.js'
import { type Draw, drawOf, likeliest } from '../../../stages/model/sampling.js'

const ops = await openBackend(testDevice)
const folder = join(root, 'fixtures/hf-reference/mistral-window')
const open = async (o: { slots: number; positions: number; cache?: 'f32' | 'bf16' }) => {
  const weights = await openWeights(ops, await openCheckpoint(folder))
  const decoder = await Decoder.open(ops, weights, o)
  weights[Symbol.dispose]()
  return decoder
}

/** Logits behind each of these tokens of one text alone, all of it going through at once. */
const alone = async (ids: readonly number[]): Promise<Float32Array> => {
  using decoder = await open({ slots: 1, positions: ids.length })
  return decoder.prefill(0, ids)
}

const texts = [
  [5, 17, 3, 40, 9, 11, 2],
  [8, 8, 30],
  [21, 60, 7, 7, 1, 33, 12, 50, 4, 19],
]

for (const [cache, bound] of [
  ['f32', 1e-10],
  ['bf16', 1e-3],
] as const)
  t.test(`texts side by side, ${cache}: the logits of each alone`, async t => {
    using decoder = await open({ slots: 3, positions: 16, cache })
    const all = texts.map(text => [...text])
    // One slot begins when others are under way, and a prompt may come in two parts.
    await decoder.prefill(2, all[2]!.slice(0, 4))
    await decoder.prefill(2, all[2]!.slice(4))
    await decoder.prefill(0, all[0]!)
    for (let step = 0; step < 4; step++) {
      if (step === 2) await decoder.prefill(1, all[1]!)
      const slots = step < 2 ? [2, 0] : [1, 0, 2]
      for (const slot of slots) all[slot]!.push((7 * step + slot) % 64)
      const logits = await decoder.step(slots.map(slot => ({ slot, token: all[slot]!.at(-1)! })))
      for (const [i, slot] of slots.entries()) {
        t.equal(decoder.held(slot), all[slot]!.length)
        const error = nmse(logits[i]!, await alone(all[slot]!))
        t.ok(error < bound, `step ${step}, slot ${slot}: NMSE ${error}`)
      }
    }
    decoder.free(0)
    t.equal(decoder.held(0), 0)
    t.ok(nmse(await decoder.prefill(0, texts[1]!), await alone(texts[1]!)) < bound, 'a slot that was freed holds nothing of before')
  })

t.test('a long prompt, whose rows see each other in blocks: the logits of the same in short parts', async t => {
  const ids = Array.from({ length: 120 }, (_, i) => (i * i * 7 + i) % 64)
  for (const [cache, bound] of [
    ['f32', 1e-10],
    ['bf16', 1e-3],
  ] as const) {
    using decoder = await open({ slots: 2, positions: 121, cache })
    const whole = await decoder.prefill(0, ids)
    for (const from of [0, 50]) await decoder.prefill(1, ids.slice(from, from + 50))
    const parts = await decoder.prefill(1, ids.slice(100))
    const error = nmse(parts, whole)
    t.ok(error < bound, `${cache}: NMSE ${error}`)
    const [next, same] = await decoder.step([0, 1].map(slot => ({ slot, token: 9 })))
    t.ok(nmse(same!, next!) < bound, `${cache}: what was kept of both`)
  }
})

t.test('a slot that goes back, and others in its place: positions are those of now, not those the last step left', async t => {
  using decoder = await open({ slots: 2, positions: 16 })
  const [first, second] = [[...texts[0]!], [...texts[1]!]]
  await decoder.prefill(0, first)
  await decoder.prefill(1, second)
  const step = async (slot: number, text: number[], token: number) => {
    const [logits] = await decoder.step([{ slot, token }])
    text.push(token)
    const error = nmse(logits!, await alone(text))
    t.ok(error < 1e-10, `slot ${slot}, position ${text.length - 1}: NMSE ${error}`)
  }
  for (const token of [3, 41]) await step(0, first, token)
  decoder.free(0, 5)
  first.length = 5
  for (const token of [12, 7]) await step(0, first, token)
  for (const token of [50, 2]) await step(1, second, token)
  await step(0, first, 19)
  // Two more are under way when the first of these is read: whoever leaves then finds the slot one token on.
  const picks = decoder.picks([{ slot: 0, token: 4 }], 6)
  const { value } = await picks.next()
  await picks.return()
  const [next] = value as Int32Array
  first.push(4)
  t.equal(decoder.held(0), first.length)
  await step(0, first, next as number)
  await step(1, second, 33)
  const made: number[] = []
  for await (const [id] of decoder.picks([{ slot: 1, token: 9 }], 3)) made.push(id!)
  second.push(9)
  for (const id of made) {
    const logits = await alone(second)
    t.equal(id, logits.indexOf(Math.max(...logits)))
    second.push(id)
  }
})

t.test('several texts pick side by side what each picks alone, and draws follow their numbers', async t => {
  using decoder = await open({ slots: 3, positions: 32 })
  const draw = (slot: number) => {
    const next = rng(slot, 'drawn')
    const sampling = { temperature: slot === 1 ? 0 : 1.5, topK: 0, topP: 0.95, minP: 0, repetitionPenalty: slot === 2 ? 1.5 : 1 }
    return (): Draw => drawOf(sampling, () => next.uniform(1)[0]!)
  }
  const made = async (slots: readonly number[], count: number): Promise<number[][]> => {
    const draws = new Map(slots.map(slot => [slot, draw(slot)]))
    const all = new Map(slots.map(slot => [slot, [] as number[]]))
    const rows: { slot: number; token: number }[] = []
    for (const slot of slots) {
      decoder.free(slot)
      decoder.remember(slot, texts[slot]!)
      const token = await decoder.pickAfter(slot, texts[slot]!, draws.get(slot)!())
      all.get(slot)!.push(token)
      rows.push({ slot, token })
    }
    for await (const ids of decoder.picks(rows, count, slot => draws.get(slot)!()))
      for (const [i, slot] of slots.entries()) all.get(slot)!.push(ids[i]!)
    for (const slot of slots) t.equal(decoder.held(slot), texts[slot]!.length + count)
    return slots.map(slot => all.get(slot)!)
  }
  const together = await made([2, 0, 1], 15)
  t.strictSame(together, [...(await made([2], 15)), ...(await made([0], 15)), ...(await made([1], 15))])
  t.ok(together.every(ids => new Set(ids).size > 4))
  await t.rejects(decoder.pick([{ slot: 0, ...likeliest }]), { name: 'RangeError', message: /goes on where one with the same slots ended/ })
})

t.test('what does not fit is refused, and nothing changes', async t => {
  {
    using decoder = await open({ slots: 2, positions: 4 })
    await decoder.prefill(0, [1, 2, 3])
    await t.rejects(decoder.prefill(0, [1, 2]), { name: 'RangeError', message: '2 more tokens do not fit beside 3 into 4 positions' })
    await t.rejects(decoder.prefill(0, []), { message: 'a slot is given no token' })
    await t.rejects(decoder.prefill(2, [1]), { message: 'there is no slot 2; there are 2' })
    await t.rejects(decoder.prefill(1, [1, 1e6]), { message: /^token 1000000 is none of \d+$/ })
    const twice = [
      { slot: 0, token: 1 },
      { slot: 0, token: 2 },
    ]
    await t.rejects(decoder.step(twice), { message: 'a step takes one token for a slot' })
    t.strictSame([decoder.held(0), decoder.held(1)], [3, 0])
    t.strictSame(await decoder.step([]), [])
    await decoder.step([{ slot: 0, token: 4 }])
    await t.rejects(decoder.step([{ slot: 0, token: 4 }]), { message: '1 more tokens do not fit beside 4 into 4 positions' })
  }
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})

t.test(
  'a head that is stored in bf16 is held so on a CPU: the logits of one in f32',
  { skip: ops.device.kind !== 'cpu' && 'the CPU only' },
  async t => {
    const sizes = { hidden_size: 64, intermediate_size: 96, num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 2 }
    for (const tied of [false, true]) {
      const config = readConfig(
        { architectures: ['LlamaForCausalLM'], ...sizes, vocab_size: 128, rms_norm_eps: 1e-5, tie_word_embeddings: tied },
        'llama',
      )
      using random = randomWeights(ops, config, 'llama', undefined)
      const run = async (weights: typeof random): Promise<{ logits: Float32Array; bytes: number }> => {
        using model = await OpenModel.open(ops, weights)
        using decoder = Decoder.over(model, { slots: 1, positions: 8 })
        return { logits: await decoder.prefill(0, [1, 2, 3]), bytes: model.bytes }
      }
      const held = await run(random)
      const widened = await run({ ...random, checkpoint: { ...random.checkpoint, tensors: new Map() } })
      t.equal(widened.bytes - held.bytes, 2 * 64 * 128)
      t.ok(nmse(held.logits, widened.logits) < 1e-12)
    }
  },
)
