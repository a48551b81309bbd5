/** OpenAI's own library and raw HTTP against the server, with a toy model: what is answered, and how each mistake is. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import OpenAI from 'openai'
import t, { type Test } from 'tap'
import { Server, type ServeOptions } from '../../../pipeline/serve/server.js'
import { root } from '../../helpers.js'
import { ToyModel } from './toy-model.js'

async function start(t: Test, o: Partial<ServeOptions> = {}) {
  const model = new ToyModel()
  const lines: string[] = []
  const server = await Server.listen(model, { host: '127.0.0.1', port: 0, maxBody: 20_000, log: line => lines.push(line), ...o })
  t.teardown(() => server.close(0))
  const client = (apiKey = 'none') => new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0 })
  const raw = async (path: string, init: RequestInit = {}) => {
    const response = await fetch(`${server.url}${path}`, init)
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, error: text.startsWith('{') ? JSON.parse(text).error : undefined }
  }
  const post = (path: string, body: unknown, headers = {}) =>
    raw(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
  return { model, lines, server, client: client(), withKey: client, raw, post }
}
const until = async (what: () => boolean) => {
  for (let i = 0; !what(); i++) {
    if (i > 500) throw new Error('it did not come to that in 5 s')
    await wait(10)
  }
}

const connectTo = (t: Test, { url }: Server) => {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  return socket
}
const rawPost = (body: object) => {
  const text = JSON.stringify(body)
  return `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`
}

t.test('models, completions, chat, by the official library', async t => {
  const { client, model } = await start(t)
  t.strictSame(
    (await client.models.list()).data.map(({ id }) => id),
    ['toy'],
  )
  t.equal((await client.models.retrieve('toy')).owned_by, 'pipe')

  const completion = await client.completions.create({
    model: 'toy',
    prompt: 'one two three',
    max_tokens: 2,
    seed: 5,
    stop: 'x',
    temperature: 0,
  })
  t.match(completion, {
    object: 'text_completion',
    model: 'toy',
    choices: [{ index: 0, text: 'one two ', finish_reason: 'length' }],
    usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 },
  })
  t.match(completion.id, /^cmpl-/)
  t.match(model.last?.drawing, { temperature: 0, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1, seed: 5, stop: ['x'], maxTokens: 2 })
  t.equal((await client.completions.create({ model: 'toy', prompt: 'a '.repeat(40) })).usage?.completion_tokens, 16, 'of OpenAI')

  const chat = await client.chat.completions.create({
    model: 'toy',
    messages: [
      { role: 'developer', content: 'be brief' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'three ' },
          { type: 'text', text: 'words here' },
        ],
      },
    ],
    n: 1,
    presence_penalty: 0,
    user: 'somebody',
    response_format: { type: 'text' },
  })
  t.match(chat, {
    object: 'chat.completion',
    choices: [{ message: { role: 'assistant', content: 'three words here' }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 },
  })
  t.strictSame(
    model.last?.messages?.map(({ role }) => role),
    ['system', 'user'],
  )
  t.match(model.last?.drawing, { temperature: 1, maxTokens: undefined, seed: undefined, stop: [] })
  t.equal(model.active, 0)
})

t.test('a model by its name, whichever of its characters the client encodes', async t => {
  const { raw, model } = await start(t)
  model.name = 'a@b+c d'
  for (const path of ['a@b+c%20d', 'a%40b%2Bc%20d', 'a@b%2bc%20%64']) t.equal((await raw(`/v1/models/${path}`)).status, 200, path)
  for (const path of ['a@b+c+d', 'a@b+c', '%', '%ff']) t.equal((await raw(`/v1/models/${path}`)).status, 404, path)
})

t.test('streams, by the official library', async t => {
  const { client, post } = await start(t)
  const text: string[] = []
  let last: OpenAI.Completion | undefined
  for await (const part of await client.completions.create({
    model: 'toy',
    prompt: 'one two three',
    stream: true,
    stream_options: { include_usage: true },
  })) {
    text.push(part.choices[0]?.text ?? '')
    last = part
  }
  t.strictSame(text, ['one ', 'two ', 'three', '', ''])
  t.strictSame(last?.usage, { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 })

  const stream = client.chat.completions.stream({ model: 'toy', messages: [{ role: 'user', content: 'ä 東京 😀' }] })
  t.match(await stream.finalChatCompletion(), {
    choices: [{ message: { role: 'assistant', content: 'ä 東京 😀' }, finish_reason: 'stop' }],
  })

  const { text: events, headers } = await post('/v1/chat/completions', {
    messages: [{ role: 'user', content: 'a b' }],
    stream: true,
    max_tokens: 1,
  })
  t.match(headers.get('content-type'), /^text\/event-stream/)
  const data = events.split('\n\n').filter(event => event !== '')
  t.equal(data.at(-1), 'data: [DONE]')
  const choices = data.slice(0, -1).map(event => JSON.parse(event.slice(6)).choices[0])
  t.strictSame(
    choices.map(({ delta, finish_reason }) => [delta, finish_reason]),
    [
      [{ role: 'assistant', content: '' }, null],
      [{ content: 'a ' }, null],
      [{}, 'length'],
    ],
  )
})

t.test('what is wrong with a request is said, by parameter', async t => {
  const { post, model } = await start(t)
  const messages = [{ role: 'user', content: 'a' }]
  for (const [path, body, status, message, param] of [
    ['completions', '{', 400, /^The body is not valid JSON\.$/, null],
    ['completions', '[]', 400, /not a JSON object/, null],
    ['completions', { prompt: 7 }, 400, /^prompt: expected a text .* and found 7\.$/, 'prompt'],
    ['completions', { prompt: ['a', 'b'] }, 400, /one, not several/, 'prompt'],
    ['completions', `{"prompt": ${'['.repeat(9000)}${']'.repeat(9000)}}`, 400, /^prompt: expected a text/, 'prompt'],
    ['chat/completions', `{"messages": [], "tools": ${'['.repeat(9000)}${']'.repeat(9000)}}`, 400, /"tools" is not supported/, 'tools'],
    ['completions', {}, 400, /^prompt: .* found nothing\.$/, 'prompt'],
    ['completions', { prompt: '' }, 400, /^The prompt is empty\. Give one\.$/, null],
    ['completions', { prompt: 'a', model: 'gpt' }, 404, /no model "gpt" here; this server has "toy"/, 'model'],
    ['completions', { prompt: 'a', n: 2 }, 400, /one answer a request/, 'n'],
    ['completions', { prompt: 'a', temperature: 'hot' }, 400, /temperature: expected a number from 0 to 2 and found "hot"/, 'temperature'],
    ['completions', { prompt: 'a', temperature: 3 }, 400, /from 0 to 2/, 'temperature'],
    ['completions', { prompt: 'a', max_tokens: 0 }, 400, /from 1 to/, 'max_tokens'],
    ['completions', { prompt: 'a', max_tokens: 1.5 }, 400, /a whole number/, 'max_tokens'],
    ['completions', { prompt: 'a', stop: ['a', ''] }, 400, /none empty/, 'stop'],
    ['completions', { prompt: 'a', stop: new Array(17).fill('a') }, 400, /up to 16/, 'stop'],
    ['completions', { prompt: 'a', logprobs: 3 }, 400, /"logprobs" is not supported/, 'logprobs'],
    [
      'completions',
      { prompt: 'a', max_token: 3 },
      400,
      /"max_token" is not understood by this server\. Did you mean "max_tokens"\?/,
      'max_token',
    ],
    ['completions', '{"prompt": "a", "__proto__": {"x": 1}}', 400, /"__proto__" is not understood/, '__proto__'],
    ['completions', { prompt: 'a', stream: 'yes' }, 400, /stream: expected true or false/, 'stream'],
    ['completions', { prompt: 'a', stream_options: {} }, 400, /stream_options needs/, 'stream_options'],
    ['chat/completions', { prompt: 'a' }, 400, /"prompt" is not understood/, 'prompt'],
    ['chat/completions', { messages: [] }, 400, /at least one message/, 'messages'],
    ['chat/completions', { messages: 'hello' }, 400, /a list of at least one message/, 'messages'],
    ['chat/completions', { messages: [null] }, 400, /an object with "role"/, 'messages[0]'],
    [
      'chat/completions',
      { messages: [{ role: 'tool', content: 'a' }] },
      400,
      /"system", "user" or "assistant" and found "tool"/,
      'messages[0].role',
    ],
    [
      'chat/completions',
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      400,
      /"type": "text"/,
      'messages[0].content[0]',
    ],
    ['chat/completions', { messages, tools: [{ type: 'function' }] }, 400, /"tools" is not supported/, 'tools'],
    [
      'chat/completions',
      { messages, response_format: { type: 'json_object' } },
      400,
      /"response_format" is not supported/,
      'response_format',
    ],
  ] as const) {
    const { status: came, error } = await post(`/v1/${path}`, body)
    t.equal(came, status, JSON.stringify(body))
    t.match(error, { message, param, type: 'invalid_request_error' })
  }
  t.equal((await post('/v1/chat/completions', { messages, logprobs: null, tools: [], logit_bias: {}, temperature: null })).status, 200)
  const least = { temperature: 0, top_p: 0, top_k: 0, min_p: 0, repetition_penalty: 0.01, max_tokens: 1, n: 1 }
  t.equal((await post('/v1/completions', { prompt: 'a', ...least })).status, 200, 'the least of each')
  t.equal(model.active, 0)
})

t.test('a name of ten megabytes that no parameter has: refused at once', async t => {
  const { post } = await start(t, { maxBody: 2e7 })
  const begun = performance.now()
  const { status, error } = await post('/v1/completions', { prompt: 'a', ['a'.repeat(1e7)]: 1 })
  t.equal(status, 400)
  t.match(error.message, /^The parameter "a{79}… is not understood by this server\.$/)
  t.ok(performance.now() - begun < 10_000)
})

t.test('what is wrong around a request: path, method, type, length, encoding, host', async t => {
  const { raw, post, server } = await start(t)
  t.match((await raw('/v2/models')).error, { message: /Known: \/v1\/models, / })
  t.equal((await raw('/v1/models/other')).status, 404)
  t.equal((await raw('/constructor')).status, 404)
  const method = await raw('/v1/chat/completions')
  t.equal(method.status, 405)
  t.equal(method.headers.get('allow'), 'POST')
  t.equal((await post('/v1/models', {})).headers.get('allow'), 'GET')
  const head = await raw('/v1/models', { method: 'HEAD' })
  t.same([head.status, head.text], [200, ''], 'who looks whether the server is there')
  t.equal((await post('/v1/completions', { prompt: 'a' }, { 'content-type': 'text/plain' })).status, 415, 'a form of a web page')
  t.equal((await post('/v1/completions', { prompt: 'a'.repeat(20_000) })).status, 413)
  const chunks = async function* () {
    for (let i = 0; i < 30; i++) yield Buffer.alloc(1000, 97)
  }
  const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: chunks(), duplex: 'half' }
  t.equal((await raw('/v1/completions', init as unknown as RequestInit)).status, 413, 'without a length')
  t.equal(
    (
      await raw('/v1/completions', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: Buffer.from([0x22, 0xff, 0x22]),
      })
    ).status,
    400,
  )
  const named = httpRequest(`${server.url}/v1/models`, { headers: { host: 'evil.example' } }).end()
  t.equal((await once(named, 'response'))[0].statusCode, 403, 'a name that leads here')
  for (const path of [`${server.url}/v1/models?limit=1`, 'HTTPS://localhost/v1/models/toy']) {
    const whole = httpRequest(server.url, { path }).end()
    t.equal((await once(whole, 'response'))[0].statusCode, 200, 'the whole address, as a proxy sends it')
  }
  t.equal((await raw('/v1/models')).status, 200, 'it goes on')
})

t.test('a key, where one is asked for', async t => {
  const { raw, withKey } = await start(t, { apiKey: 'open sesame' })
  const { status, error } = await raw('/v1/models')
  t.equal(status, 401)
  t.match(error, { type: 'authentication_error', code: 'invalid_api_key' })
  await t.rejects(withKey('open').models.list(), { message: /^401 The API key is missing or wrong/ })
  t.equal((await withKey('open sesame').models.list()).data.length, 1)
  t.equal((await raw('/nowhere')).status, 401, 'nothing is told without it')
})

t.test('a key of any letters, as a terminal sends them: in UTF-8', async t => {
  const { raw } = await start(t, { apiKey: 'ключ 🔑' })
  const status = async (key: string) => {
    const bytes = Buffer.from(key).toString('latin1')
    return (await raw('/v1/models', { headers: { authorization: `Bearer ${bytes}` } })).status
  }
  t.equal(await status('ключ 🔑'), 200)
  t.equal(await status('ключ'), 401)
  const { withKey } = await start(t, { apiKey: 'clé' })
  t.equal((await withKey('clé').models.list()).data.length, 1, 'as fetch sends it')
})

t.test('a full server says when to come again; the library comes again', async t => {
  const { client, model, server } = await start(t)
  const waiting: (() => void)[] = []
  model.gate = () => new Promise(resolve => waiting.push(resolve))
  const ask = () => client.completions.create({ model: 'toy', prompt: 'hello' })
  const both = [ask(), ask()]
  await until(() => model.active === 2)
  const refused = await ask().then(
    () => undefined,
    (error: unknown) => error as InstanceType<typeof OpenAI.RateLimitError>,
  )
  t.ok(refused instanceof OpenAI.RateLimitError)
  t.equal(refused?.headers?.get('retry-after'), '1')
  const patient = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 1 })
  const third = patient.completions.create({ model: 'toy', prompt: 'hello' })
  model.gate = async () => {}
  for (const go of waiting) go()
  t.strictSame(
    (await Promise.all([...both, third])).map(({ choices }) => choices[0]?.text),
    ['hello', 'hello', 'hello'],
  )
})

t.test('a client that leaves ends its answer, whole or streamed', async t => {
  const { client, model, lines } = await start(t)
  model.gate = () => wait(5)
  const words = 'word '.repeat(1000)
  const stream = await client.completions.create({ model: 'toy', prompt: words, stream: true, max_tokens: 1000 })
  for await (const _ of stream) break
  await until(() => model.left === 1)
  const abort = new AbortController()
  const whole = client.completions.create({ model: 'toy', prompt: words, max_tokens: 1000 }, { signal: abort.signal })
  await until(() => model.active === 1)
  abort.abort()
  await t.rejects(whole, { message: 'Request was aborted.' })
  await until(() => model.left === 2 && model.active === 0)
  await until(() => lines.filter(line => / left /.test(line)).length === 2)
})

t.test('requests sent before the answer to the one before: each is answered, and who leaves frees all slots', async t => {
  const { model, lines, server } = await start(t)
  const warnings: Error[] = []
  const warned = (warning: Error) => warnings.push(warning)
  process.on('warning', warned)
  t.teardown(() => process.off('warning', warned))
  const patient = connectTo(t, server)
  let came = ''
  patient.setEncoding('utf8').on('data', text => {
    came += text
  })
  patient.write('GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20))
  await until(() => came.split('HTTP/1.1 200 OK').length === 21)
  t.strictSame(warnings, [])

  model.gate = () => wait(5)
  for (const stream of [true, false]) {
    const leaving = connectTo(t, server)
    leaving.write(rawPost({ prompt: 'word '.repeat(3000), max_tokens: 3000, stream }).repeat(2))
    await until(() => model.active === 2)
    leaving.destroy()
    await until(() => model.active === 0)
  }
  await until(() => lines.filter(line => / left /.test(line)).length === 4)
  t.equal(model.left, 4)
})

t.test('what fails inside is not told outside; the log has no text of requests', async t => {
  const { client, post, lines } = await start(t)
  const { status, text } = await post('/v1/completions', { prompt: 'fail secretly' })
  t.equal(status, 500)
  t.notMatch(text, /secret/)
  t.match(lines.join('\n'), /a secret of the inside\n\s+at /)
  const stream = await client.completions.create({ model: 'toy', prompt: 'tell then break', stream: true })
  const came: string[] = []
  await t.rejects(
    async () => {
      for await (const part of stream) came.push(part.choices[0]?.text ?? '')
    },
    { message: /The model failed; the server goes on\./ },
  )
  t.strictSame(came, ['tell ', 'then '])
  await client.completions.create({ model: 'toy', prompt: 'confidential matter' })
  t.notMatch(lines.join('\n'), /confidential|secretly|tell/)
  t.match(lines.at(-1), /^\S+Z POST \/v1\/completions 200 2 \+ 2 tokens \d+\.\d\d s$/)
})

t.test('closing: what is under way may finish for a while, then it is ended; nothing new is taken', async t => {
  const { client, model, server } = await start(t)
  let go = () => {}
  const both = new Promise<void>(resolve => {
    go = resolve
  })
  model.gate = () => both.then(() => wait(5))
  const short = client.completions.create({ model: 'toy', prompt: 'a b c d e f' })
  const long = await client.completions.create({ model: 'toy', prompt: 'word '.repeat(3000), stream: true, max_tokens: 3000 })
  await until(() => model.active === 2)
  const closed = server.close(600)
  go()
  t.equal((await short).choices[0]?.text, 'a b c d e f')
  await t.rejects(
    async () => {
      for await (const _ of long);
    },
    { message: /The server is being closed\./ },
  )
  await closed
  t.equal(model.active, 0)
  await t.rejects(client.models.list(), { message: 'Connection error.' })
})

t.test('closing: a body that is still on its way is refused at once; who reads nothing is no failure', async t => {
  const { model, lines, server } = await start(t)
  const half = connectTo(t, server)
  half.write(rawPost({ prompt: 'a' }).slice(0, -1))
  const slow = connectTo(t, server)
  slow.pause()
  const long = `${'word'.repeat(4000)} `.repeat(5000)
  model.complete = (_, drawing, signal) => ToyModel.prototype.complete.call(model, long, drawing, signal)
  let said = 0
  let before = -1
  model.gate = async () => {
    said++
  }
  slow.write(rawPost({ prompt: 'a', max_tokens: 5000, stream: true }))
  // Until its words go nowhere.
  while (said === 0 || said !== before) {
    before = said
    await wait(100)
  }
  const closed = server.close(1000)
  const [answer] = await once(half, 'data')
  t.match(String(answer), /^HTTP\/1\.1 503 .*connection: close.*The server is being closed/is)
  t.equal(model.active, 1, 'the other has its time')
  await closed
  await until(() => model.active === 0 && lines.length > 1)
  t.match(lines[0], / POST \/v1\/completions 503 /)
  t.notMatch(lines.join('\n'), /failed|\n\s+at /)
})

t.test('a process that closes it ends by itself: neither before it is closed nor long after', async t => {
  const module = (path: string) => JSON.stringify(pathToFileURL(join(root, 'dist', path)))
  const program = `
    import { Server } from ${module('pipeline/serve/server.js')}
    import { ToyModel } from ${module('test/pipeline/serve/toy-model.js')}
    const model = new ToyModel()
    const listen = () => Server.listen(model, { host: '127.0.0.1', port: 0, maxBody: 1000, log() {} })
    await (await listen()).close(600_000)
    const server = await listen()
    const leave = new AbortController()
    model.gate = () => {
      leave.abort()
      return new Promise(() => {})
    }
    const headers = { 'content-type': 'application/json' }
    await fetch(server.url + '/v1/completions', { method: 'POST', headers, body: '{"prompt": "a"}', signal: leave.signal }).catch(() => {})
    await server.close(100)
    console.log('closed')`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], { timeout: 60_000 })
  t.equal(stdout, 'closed\n')
})

t.test('a client that sends half a request and one that reads nothing hold nothing up', async t => {
  const { model, server } = await start(t)
  const { port } = new URL(server.url)
  const half = connect(Number(port), '127.0.0.1')
  half.on('error', () => {})
  half.write('POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{')
  await wait(50)
  t.equal(model.active, 0)
  half.destroy()
  const broken = connect(Number(port), '127.0.0.1')
  broken.end('no HTTP at all\r\n\r\n')
  const [answer] = await once(broken, 'data')
  t.match(String(answer), /^HTTP\/1\.1 400/)
})

t.test('a port in use', async t => {
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  const { port } = other.address() as { port: number }
  await t.rejects(Server.listen(new ToyModel(), { host: '127.0.0.1', port, maxBody: 1, log: () => {} }), {
    name: 'PipeError',
    message: 'the port is in use by another program.',
  })
  other.close()
})
