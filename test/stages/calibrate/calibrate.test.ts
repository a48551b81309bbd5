/** calibrate: what linears read is what a whole forward pass feeds them; resuming changes no bit and runs only what is needed. */
import { cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Value } from '@sinclair/typebox/value'
import t, { type Test } from 'tap'
import { openBackend } from '../../../native/index.js'
import type { Tensor } from '../../../native/tensor.js'
import type { KnownRow, NewRow, Row } from '../../../pipeline/define.js'
import type { activations } from '../../../schemas/tables/activations.js'
import type { linears } from '../../../schemas/tables/linears.js'
import calibrate from '../../../stages/calibrate/calibrate.js'
import { batchOf } from '../../../stages/model/batch.js'
import { openCheckpoint } from '../../../stages/model/checkpoint.js'
import { embed, forwardBlock, openBlock, Rotary } from '../../../stages/model/forward.js'
import model from '../../../stages/model/model.js'
import { openWeights } from '../../../stages/model/quantized.js'
import { concatenated, openTokenizer } from '../../../stages/model/text.js'
import { close, countingOps, root, temporary, testDevice } from '../../helpers.js'
import { same } from '../../native/devices.js'
import { contextWith, memoryCheckpoint } from '../context.js'
import { floats, runStage } from '../run-stage.js'

const folder = join(root, 'fixtures/tiny-llama')
const text = join(folder, 'calibration.jsonl')
const params = { text, sequences: 5, length: 40, batch: 2, precision: 'f32' }
const ops = await openBackend(testDevice)
type Out = NewRow<typeof activations>
type In = Row<typeof linears>
const rowsOf = async (path: string): Promise<In[]> => (await runStage(model, { path }, [{}], contextWith(ops))) as In[] // references all
const rows = await rowsOf(folder)

/** The bits of every chunk that came out, by group, in order; the chunks are disposed. */
const collect = async (out: readonly Out[]): Promise<Map<string, Uint8Array[]>> => {
  const groups = new Map<string, Uint8Array[]>()
  for (const row of out) {
    if (row.role !== 'activation') continue
    groups.set(batchOf(row), [...(groups.get(batchOf(row)) ?? []), await (row.x as Tensor).read()])
    const x = row.x as Tensor
    x[Symbol.dispose]()
  }
  return groups
}

t.test('activations are those of a whole forward pass', async t => {
  const out = await runStage(calibrate, params, rows, contextWith(ops))
  t.ok(
    out.filter(({ role }) => role === 'activation').every(({ x, n, tokens }) => String(x!.shape) === `${tokens},${n}`),
    'x is [tokens, n]',
  )
  const groups = await collect(out)

  const checkpoint = await openCheckpoint(folder)
  const { config } = checkpoint
  const { windows } = await concatenated(await openTokenizer(folder, 2048), text, { length: 40, count: 5 })
  using weights = await openWeights(ops, checkpoint)
  using rotary = new Rotary(ops, config)
  let [x] = await embed(ops, weights, [Int32Array.from(windows.flatMap(window => [...window]))])
  const inputs: [string, Tensor][] = []
  for (let layer = 0; layer < 4; layer++) {
    using block = await openBlock(ops, weights, layer)
    x = forwardBlock(ops, config, layer, block, x as Tensor, rotary.of(40), (shares, input) => inputs.push([`${layer}/${shares}`, input]))
  }
  x?.[Symbol.dispose]()
  t.strictSame(
    [...groups.keys()],
    inputs.map(([name]) => name),
  )
  for (const [name, input] of inputs) {
    const expected = await floats(input)
    const bytes = Buffer.concat(groups.get(name) ?? [])
    const actual = new Float32Array(Uint8Array.from(bytes).buffer)
    const far = expected.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0)
    if (actual.length !== expected.length || !(far < 1e-3)) t.fail(`${name}: off by ${far}`)
    input[Symbol.dispose]()
  }
  t.equal(inputs.length, 16)
})

t.test('rows come in the order of the model, each linear after all chunks of its input', async t => {
  const out = await runStage(calibrate, params, rows, contextWith(ops))
  await collect(out)
  t.strictSame(
    out.filter(({ role }) => role !== 'activation').map(({ linear }) => linear),
    rows.map(({ linear }) => linear),
  )
  const lastChunk = new Map(out.flatMap((row, i) => (row.role === 'activation' ? [[batchOf(row), i]] : [])) as [string, number][])
  t.ok(out.every((row, i) => row.role !== 'linear' || i > lastChunk.get(batchOf(row))!))
  t.strictSame(
    out
      .filter(({ role }) => role === 'activation')
      .slice(0, 4)
      .map(batchOf),
    ['0/a', '0/o', '0/b', '0/s'],
  )
  await ops.finish()
  t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
})

t.test('resuming: the same bits, and only the blocks that are needed', async t => {
  const checkpoint = memoryCheckpoint()
  const whole = await collect(await runStage(calibrate, params, rows, contextWith(ops, { checkpoint })))
  t.strictSame(checkpoint.names, ['3.0', '3.1', '3.2'], 'the stream entering the last block is still there')

  const missing = new Set(['3/o', '3/b', 'kept/head'])
  const counting = countingOps(ops)
  const again = contextWith(counting.ops, { wanted: batch => missing.has(batch), checkpoint })
  const out = await runStage(calibrate, params, rows, again)
  t.equal(counting.calls.attention, 3, 'one block, three chunks')
  t.equal(counting.calls.embed, undefined, 'from the saved stream')
  t.strictSame([...new Set(out.map(batchOf))], ['3/o', '3/b', 'kept/head'])
  const groups = await collect(out)
  for (const [name, chunks] of groups)
    t.ok(
      chunks.every((bytes, i) => same(bytes, whole.get(name)![i]!)),
      name,
    )

  const none = countingOps(ops)
  const fresh = contextWith(none.ops, { wanted: batch => batch === '1/a' })
  const second = await collect(await runStage(calibrate, params, rows, fresh))
  t.equal(none.calls.attention, 6, 'nothing saved: from the start, up to the last block wanted')
  t.ok(second.get('1/a')!.every((bytes, i) => same(bytes, whole.get('1/a')![i]!)))

  const idle = countingOps(ops)
  const nothing = await runStage(calibrate, params, rows, contextWith(idle.ops, { wanted: batch => batch.startsWith('kept/') }))
  t.equal(nothing.length, rows.filter(({ role }) => role === 'kept').length)
  t.equal(idle.calls.attention, undefined, 'kept rows need no block')
})

t.test('an incomplete saved stream is not used', async t => {
  const checkpoint = memoryCheckpoint()
  const whole = await collect(await runStage(calibrate, params, rows, contextWith(ops, { checkpoint })))
  await checkpoint.drop('3.1')
  const counting = countingOps(ops)
  const again = contextWith(counting.ops, { wanted: batch => batch === '3/s', checkpoint })
  const groups = await collect(await runStage(calibrate, params, rows, again))
  t.equal(counting.calls.attention, 12, 'from the start')
  t.ok(groups.get('3/s')!.every((bytes, i) => same(bytes, whole.get('3/s')![i]!)))
})

t.test('in bf16: the same activations but for their rounding, the same bits after resuming', async t => {
  const checkpoint = memoryCheckpoint()
  const [f32, bf16] = [
    await collect(await runStage(calibrate, params, rows, contextWith(ops))),
    await collect(await runStage(calibrate, { ...params, precision: 'bf16' }, rows, contextWith(ops, { checkpoint }))),
  ]
  t.strictSame([...bf16.keys()], [...f32.keys()])
  const widened = (bytes: Uint8Array): Float32Array =>
    new Float32Array(Uint32Array.from(new Uint16Array(bytes.slice().buffer), half => half << 16).buffer)
  for (const [name, chunks] of bf16) {
    const [found, expected] = [Buffer.concat(chunks), Buffer.concat(f32.get(name)!)]
    close(t, widened(found), new Float32Array(Uint8Array.from(expected).buffer), 1e-3, name)
  }
  const again = contextWith(ops, { wanted: batch => batch === '3/s', checkpoint })
  const resumed = await collect(await runStage(calibrate, { ...params, precision: 'bf16' }, rows, again))
  t.ok(resumed.get('3/s')!.every((bytes, i) => same(bytes, bf16.get('3/s')![i]!)))
})

t.test('weights of the next block are opened ahead; without room for them, when they are asked for', async t => {
  const asked: number[] = []
  const ahead = contextWith(ops, {
    room: async bytes => {
      asked.push(bytes)
      return { [Symbol.dispose]() {} }
    },
  })
  const whole = await collect(await runStage(calibrate, params, rows, ahead))
  const [block = 0, chunk = 0] = asked
  t.equal(asked.filter(bytes => bytes === block).length, 1, 'the first block')
  t.equal(asked.filter(bytes => bytes === block + chunk).length, 3, 'three more, with room left for a chunk')
  const tight = contextWith(ops, {
    room: async bytes => {
      if (bytes > block) throw new Error('no room')
      return { [Symbol.dispose]() {} }
    },
  })
  for (const [name, chunks] of await collect(await runStage(calibrate, params, rows, tight)))
    t.ok(
      chunks.every((bytes, i) => same(bytes, whole.get(name)![i]!)),
      name,
    )
  await ops.finish()
  t.equal(ops.device.liveBytes, 0, 'nothing is left on the device')
})

t.test('its estimate counts the streams that stay on the device, up to what is kept there', async t => {
  const said = (sequences: number, gradients: boolean): number =>
    calibrate.estimate?.(rows as unknown as KnownRow[], { ...whole, sequences, gradients }).memory ?? 0
  const whole = Value.Default(calibrate.params, { ...params }) as Parameters<NonNullable<typeof calibrate.estimate>>[1]
  t.equal(said(102, false) - said(2, false), 4 * 256 * 100 * 40, 'the stream that enters a block')
  t.equal(said(102, true) - said(2, true), 4 * (4 * 256 * 100 * 40), 'with gradients those of four blocks')
  t.equal(said(1e6, false), said(2e6, false))
})

t.test('stopping', async t => {
  const stop = new AbortController()
  let chunks = 0
  const context = contextWith(ops, {
    signal: stop.signal,
    progress: () => {
      if (++chunks === 2) stop.abort()
    },
  })
  await t.rejects(runStage(calibrate, params, rows, context), { name: 'AbortError' })
  t.equal(chunks, 2)
})

t.test("texts and models that can't be used", async t => {
  const path = (name: string, content: string): string => {
    const file = join(temporary(t), name)
    writeFileSync(file, content)
    return file
  }
  const run = (change: object, from = rows) => runStage(calibrate, { ...params, ...change }, from, contextWith(ops))
  await t.rejects(run({ text: path('short.txt', 'A town.') }), {
    name: 'PipeError',
    message: /^the text is too short: it gives \d tokens and one window takes 40\.$/,
  })
  await t.rejects(run({ length: 4096 }), {
    name: 'PipeError',
    message: 'sequences of 4096 tokens are longer than the 512 positions the model was made for.',
  })
  const small = modelWithTokenizer(t)
  await t.rejects(run({}, await rowsOf(small)), {
    name: 'PipeError',
    message: "the tokenizer has 2048 tokens but the model's embedding only 256 rows.",
  })
})

/** A model whose embedding is smaller than its tokenizer. */
function modelWithTokenizer(t: Test): string {
  const path = join(temporary(t), 'model')
  cpSync(join(root, 'fixtures/hf-reference/llama-gqa'), path, { recursive: true })
  cpSync(join(folder, 'tokenizer.json'), join(path, 'tokenizer.json'))
  return path
}
