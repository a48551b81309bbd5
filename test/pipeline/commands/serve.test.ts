/** pipe serve as people run it, on the bundled model, asked by OpenAI's own library. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI from 'openai'
import t from 'tap'
import { pipe, root, startPipe, temporary } from '../../helpers.js'

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

t.test('the text of pipe generate, whole and streamed, greedy and drawn; counts of tokens', async t => {
  const generated = (...args: string[]) => pipe(['generate', tiny, '--prompt', prompt, '--max-tokens', '12', ...args])
  const [greedy, drawn] = await Promise.all([generated(), generated('--temperature', '0.9', '--top-p', '0.9', '--seed', '3')])
  const whole = await complete()
  t.equal(`${text(whole)}\n`, greedy.stdout)
  t.equal(`${text(await complete({ temperature: 0.9, top_p: 0.9, seed: 3 }))}\n`, drawn.stdout)
  t.equal(whole.usage?.completion_tokens, 12)
  const parts: string[] = []
  for await (const part of await client.completions.create({ model: 'tiny-llama', prompt, max_tokens: 12, temperature: 0, stream: true }))
    parts.push(part.choices[0]?.text ?? '')
  t.equal(parts.join(''), text(whole))
  t.ok(parts.length > 6)
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

t.test('sixteen at once: eight slots and a queue of two; each text is the one it is alone', async t => {
  const alone = text(await complete({ max_tokens: 30 }))
  const all = await Promise.all(Array.from({ length: 16 }, (_, i) => complete({ max_tokens: 30 - (i % 3) * 10 })))
  for (const completion of all) t.ok(alone?.startsWith(text(completion) ?? '?'))
  const together = await Promise.allSettled(Array.from({ length: 14 }, () => complete({ max_tokens: 100 }, impatient)))
  const refused = together.flatMap(result => (result.status === 'rejected' ? [result.reason as { status?: number }] : []))
  t.ok(refused.length >= 1 && refused.length <= 4, `${refused.length} of 14 refused`)
  t.ok(refused.every(({ status }) => status === 429))
})

t.test('mistakes: no key, a prompt longer than the context, or of a million tokens; it goes on', async t => {
  const stranger = new OpenAI({ baseURL, apiKey: 'guess', maxRetries: 0 })
  await t.rejects(stranger.models.list(), { message: /^401 / })
  await t.rejects(complete({ prompt: 'five bricks '.repeat(400) }, impatient), {
    message: /^400 The prompt has \d+ tokens and there is room for 512: none is left to answer in\. Give a shorter prompt\./,
  })
  await t.rejects(complete({ prompt: 'five bricks '.repeat(500_000) }, impatient), { message: /^413 / })
  await t.rejects(complete({ prompt: '' }, impatient), { message: /^400 The prompt is empty/ })
  t.ok(text(await complete()))
})

t.test('clients that leave free their slots: eight leave, eight are served at once', async t => {
  for (let i = 0; i < 2; i++) {
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
  }
  t.equal((await Promise.all(Array.from({ length: 8 }, () => complete()))).length, 8)
})

t.test('a port in use, then the end: a signal closes it, a stream under way is ended, exit code 0', async t => {
  const taken = await pipe(['serve', tiny, '--port', new URL(baseURL).port])
  t.equal(taken.code, 1)
  t.match(taken.stderr, /the port is in use by another program\.\n {2}Give another with --port\.\n$/)
  server.kill('SIGINT')
  const { code, stderr } = await server.finished
  t.equal(code, 0, stderr)
  t.match(stderr, /Closing: answers under way have 5 seconds\./)
  t.notMatch(stderr, /bricks|sesame|\n\s+at /)
})
