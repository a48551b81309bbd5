/** The library as a program uses it: by the package's own name. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { openBackend } from 'pipe/device'
import { type Piece, TextModel } from 'pipe/text'
import t from 'tap'
import { root, temporary, testDevice } from '../../helpers.js'

const tiny = join(root, 'fixtures/tiny-llama')

async function whole(pieces: AsyncIterable<Piece>): Promise<string> {
  let all = ''
  for await (const { text } of pieces) all += text
  return all
}

t.test('completions and conversations, side by side; nothing is left behind', async t => {
  const ops = await openBackend(testDevice)
  const folder = temporary(t)
  cpSync(tiny, folder, { recursive: true })
  writeFileSync(join(folder, 'chat_template.jinja'), '{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}')
  const model = await TextModel.open(ops, folder, { slots: 2 })
  t.equal(model.positions, 512)
  t.ok(model.chats)
  const prompt = 'The mason had five bricks.'
  const [one, two] = await Promise.all([
    model.complete(prompt, { maxTokens: 12 }),
    model.chat([{ role: 'user', content: prompt }], { maxTokens: 12 }),
  ])
  t.equal(one.promptTokens, two.promptTokens)
  const [text, answer] = await Promise.all([whole(one.pieces), whole(two.pieces)])
  t.ok(text.length > 10)
  t.equal(answer, text)
  await t.rejects(model.complete(''), { code: 'input', message: 'the prompt is empty: there is nothing to go on from.' })
  await t.rejects(model.chat(new Array(513).fill({ role: 'user', content: '' })), {
    code: 'input',
    message: 'the conversation has 513 messages and there is room for 512 tokens.',
  })
  const order: string[] = []
  const told = (name: string, promise: Promise<unknown>) => promise.catch(() => {}).then(() => order.push(name))
  const long = Array.from({ length: 6 }, () => told('long', model.complete('x'.repeat(60_000))))
  const left = model.complete('x'.repeat(60_000), { signal: AbortSignal.abort() })
  await told(
    'short',
    model.complete(prompt, { maxTokens: 1 }).then(({ pieces }) => whole(pieces)),
  )
  t.ok(order.indexOf('short') <= 1, `${order}: who asks for little does not wait for those who send much`)
  await Promise.all(long)
  t.equal(await whole((await left).pieces), '', 'and who has left is given nothing')
  t.strictSame(model.load, { active: 0, waiting: 0, full: false })
  await model[Symbol.asyncDispose]()
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})

t.test('options out of their range are refused by name, before anything is made', async t => {
  const ops = await openBackend(testDevice)
  const model = await TextModel.open(ops, tiny, { slots: 1 })
  const sampling = { temperature: 0.8, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 }
  for (const [o, message] of [
    [{ maxTokens: 0 }, 'maxTokens must be a whole number from 1, got 0'],
    [{ maxTokens: Number.NaN }, 'maxTokens must be a whole number from 1, got NaN'],
    [{ maxTokens: 1.5 }, 'maxTokens must be a whole number from 1, got 1.5'],
    [{ stop: ['a', ''] }, 'stop[1] must be a text that is not empty'],
    [{ sampling: { ...sampling, temperature: Number.NaN } }, 'sampling.temperature must be a number from 0, got NaN'],
    [{ sampling: { ...sampling, topK: 2.5 } }, 'sampling.topK must be a whole number from 0, got 2.5'],
    [{ sampling: { ...sampling, topP: 1.1 } }, 'sampling.topP must be a number from 0 to 1, got 1.1'],
    [{ sampling: { ...sampling, minP: -1 } }, 'sampling.minP must be a number from 0 to 1, got -1'],
    [{ sampling: { ...sampling, repetitionPenalty: 0 } }, 'sampling.repetitionPenalty must be a number above 0, got 0'],
  ] as const) {
    await t.rejects(model.complete('Once', o), { name: 'RangeError', message })
    await t.rejects(model.chat([{ role: 'user', content: 'Once' }], o), { name: 'RangeError', message })
  }
  const least = { maxTokens: 1, stop: ['a'], sampling: { ...sampling, topP: 0, minP: 1, repetitionPenalty: 0.01 } }
  t.ok(await whole((await model.complete('Once', least)).pieces))
  await model[Symbol.asyncDispose]()
})

t.test('closed while answers are under way and waiting: both end, and nothing is left', async t => {
  const ops = await openBackend(testDevice)
  const model = await TextModel.open(ops, tiny, { slots: 1 })
  // Work that comes first: the second text is tokenized before the first is over, however busy the machine is.
  using square = ops.zeros('f32', [2048, 2048])
  for (let i = 0; i < 4; i++) ops.matmul(square, square)[Symbol.dispose]()
  const [one, two] = await Promise.all([1, 2].map(() => model.complete('Once upon a time', { maxTokens: 400 })))
  const [first, second] = [one!.pieces[Symbol.asyncIterator](), two!.pieces[Symbol.asyncIterator]()]
  const [piece, waiting] = [await first.next(), second.next()]
  t.equal(piece.done, false)
  t.strictSame(model.load, { active: 1, waiting: 1, full: false })
  const closing = model[Symbol.asyncDispose]()
  const ends: unknown[] = []
  for (let next = await first.next(); !next.done; next = await first.next()) ends.push(next.value.end)
  t.ok(ends.length < 100, `${ends.length} pieces came after that`)
  t.ok(ends.every(end => end === undefined), 'the answer does not claim to be whole')
  t.equal((await waiting).done, true)
  await closing
  await ops.finish()
  t.equal(ops.device.liveBytes, square.bytes)
})

t.test('an op that fails ends what is under way; then answers are what they were', async t => {
  const ops = await openBackend(testDevice)
  const model = await TextModel.open(ops, tiny, { slots: 2 })
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1.2 }
  const answers = () =>
    Promise.all(
      ['Once upon a time', 'The mason had'].map(async text => whole((await model.complete(text, { sampling, maxTokens: 8 })).pieces)),
    )
  const fail = () => {
    using table = ops.zeros('f32', [4, 4])
    using ids = ops.tensor(Int32Array.of(4), [1])
    ops.embed(table, ids)[Symbol.dispose]()
  }
  const before = await answers()
  fail()
  await t.rejects(answers(), { message: /^embed: token 0 is 4/ })
  t.strictSame(await answers(), before)
  const { pieces } = await model.complete('Once upon a time', { maxTokens: 400 })
  await pieces.next()
  fail()
  await t.rejects(whole(pieces), { message: /^embed: token 0 is 4/ })
  t.strictSame(await answers(), before)
  t.strictSame(model.load, { active: 0, waiting: 0, full: false })
  await model[Symbol.asyncDispose]()
  await ops.finish()
  t.equal(ops.device.liveBytes, 0)
})

t.test('refused before weights are opened', async t => {
  const ops = await openBackend(testDevice)
  await t.rejects(TextModel.open(ops, tiny, { mustChat: true }), { code: 'input', message: /^the model has no chat template/ })
  await t.rejects(TextModel.open(ops, tiny, { free: 8e6, context: 100_000 }), {
    code: 'memory',
    message: '8 × 512 positions of keys and values take 0.0 GB; 0.0 GB are free.',
  })
  t.equal(ops.device.liveBytes, 0)
})

t.test('keys and values that find no memory beside the weights: refused as it opens, and nothing is left', async t => {
  const ops = await openBackend(testDevice)
  const folder = temporary(t)
  cpSync(tiny, folder, { recursive: true })
  const config = readFileSync(join(tiny, 'config.json'), 'utf8')
  writeFileSync(join(folder, 'config.json'), config.replace('"max_position_embeddings": 512', '"max_position_embeddings": 1e12'))
  for (const [slots, hint] of [
    [2, 'Give a smaller --context or fewer --slots, or --cache bf16 for half of it.'],
    [1, 'Give a smaller --context, or --cache bf16 for half of it.'],
  ] as const) {
    await t.rejects(TextModel.open(ops, folder, { slots, context: 1e12 }), {
      code: 'memory',
      where: folder,
      message: new RegExp(`^${slots} × 1000000000000 positions of keys and values take .* GB; the weights beside them leave less`),
      hint,
    })
    await ops.finish()
    t.equal(ops.device.liveBytes, 0)
  }
})
