/** pipe serve as people run it, on the bundled model, asked by OpenAI's own library. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI from 'openai'
import t from 'tap'
import { root, startPipe, temporary } from '../../helpers.js'
import { pipe } from './in-process.js'

const tiny = join(root, 'fixtures/tiny-llama')
const folder = temporary(t)
const template = join(folder, 'template.jinja')
writeFileSync(
  template,
  "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if messages[0].role == 'assistant' %}{{ raise_exception('who asks?') }}{% endif %}assistant:",
)

const server = startPipe(['serve', tiny, '--template', template, '--port', '0', '--queue', '2', '--max-body', '100kB'], {
  env: { PIPE_API_KEY: 'open sesame' },
})
const [, baseURL = ''] = /on (http:\S+): 8 slots of 512 positions/.exec(await server.saw(/positions\n/)) ?? []
const client = new OpenAI({ baseURL, apiKey: 'open sesame', maxRetries: 20 })
const impatient = new OpenAI({ baseURL, apiKey: 'open sesame', maxRetries: 0 })
const prompt = 'The mason had five bricks.'
const complete = (o: Partial<OpenAI.CompletionCreateParamsNonStreaming> = {}, by = client) =>
  by.completions.create({ model: 'tiny-llama', prompt, max_tokens: 12, temperature: 0, ...o })
const text = (completion: OpenAI.Completion) => completion.choices[0]?.text

t.test('a text by its seed, whole and streamed; counts of tokens', async t => {
  const drawing = { temperature: 0.9, top_p: 0.9, seed: 3 }
  const whole = await complete(drawing)
  t.match(whole.usage, { prompt_tokens: 7, completion_tokens: 12, total_tokens: 19 })
  const parts: string[] = []
  for await (const part of await client.completions.create({ model: 'tiny-llama', prompt, max_tokens: 12, ...drawing, stream: true }))
    parts.push(part.choices[0]?.text ?? '')
  t.equal(parts.join(''), text(whole))
  t.ok(parts.length > 6)
  t.not(text(await complete()), text(whole))
})

t.test('chat, by the template', async t => {
  const messages = [{ role: 'user' as const, content: 'How many bricks?' }]
  const ask = { model: 'tiny-llama', messages, max_completion_tokens: 10, temperature: 0 }
  const answer = await client.chat.completions.create(ask)
  const same = await complete({ prompt: 'user: How many bricks?\nassistant:', max_tokens: 10 })
  t.equal(answer.choices[0]?.message.content, text(same))
  const stream = client.chat.completions.stream(ask)
  t.equal((await stream.finalMessage()).content, text(same))
  await t.rejects(impatient.chat.completions.create({ ...ask, messages: [{ role: 'assistant', content: 'a' }] }), {
    message: /^400 The chat template refuses this conversation: who asks\?/,
  })
})

t.test(
  'fourteen at once: eight slots, a queue of two, and those that are told to come again; each text is the one it is alone',
  async t => {
    const alone = text(await complete({ max_tokens: 60 }))
    const impatiently = Promise.allSettled(Array.from({ length: 14 }, () => complete({ max_tokens: 60 }, impatient)))
    const patiently = Promise.all(Array.from({ length: 4 }, (_, i) => complete({ max_tokens: 20 - 4 * i })))
    const refused = (await impatiently).flatMap(result => (result.status === 'rejected' ? [result.reason as { status?: number }] : []))
    t.ok(refused.length >= 1 && refused.length <= 8, `${refused.length} of 14 refused`)
    t.ok(refused.every(({ status }) => status === 429))
    for (const result of await impatiently) if (result.status === 'fulfilled') t.equal(text(result.value), alone ?? '')
    for (const completion of await patiently) t.ok(alone?.startsWith(text(completion) ?? '?'))
  },
)

t.test('mistakes: no key, a prompt longer than the context, or than a body may be; it goes on', async t => {
  const stranger = new OpenAI({ baseURL, apiKey: 'guess', maxRetries: 0 })
  await t.rejects(stranger.models.list(), { message: /^401 / })
  await t.rejects(complete({ prompt: 'five bricks '.repeat(400) }, impatient), {
    message: /^400 The prompt has \d+ tokens and there is room for 512: none is left to answer in\. Give a shorter prompt\./,
  })
  await t.rejects(complete({ prompt: 'five bricks '.repeat(20_000) }, impatient), { message: /^413 / })
  await t.rejects(complete({ prompt: '' }, impatient), { message: /^400 The prompt is empty/ })
  t.ok(text(await complete()))
})

t.test('clients that leave free their slots: eight leave, eight are served at once', async t => {
  const streams = await Promise.all(
    Array.from({ length: 8 }, () =>
      client.completions.create({ model: 'tiny-llama', prompt: 'Once', max_tokens: 500, temperature: 1, stream: true }),
    ),
  )
  await Promise.all(
    streams.map(async stream => {
      for await (const _ of stream) break
    }),
  )
  t.equal((await Promise.all(Array.from({ length: 8 }, () => complete({ max_tokens: 4 })))).length, 8)
})

t.test('a port in use; a signal closes it, exit code 0', async t => {
  const taken = await pipe(['serve', tiny, '--port', new URL(baseURL).port])
  t.match(taken, { code: 1, stderr: /^127\.0\.0\.1:\d+\n {2}the port is in use by another program\.\n {2}Give another with --port\.\n$/ })
  t.equal((await pipe(['serve', tiny, '--api-key', ''])).code, 1)
  t.equal((await pipe(['serve', tiny, '--max-body', '10'])).code, 2)
  server.kill('SIGINT')
  const { code, stderr } = await server.finished
  t.equal(code, 0, stderr)
  t.match(stderr, /Closing: answers under way have 5 seconds\./)
  t.notMatch(stderr, /bricks|sesame|\n\s+at /)
})
