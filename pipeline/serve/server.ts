/**
 * server: OpenAI's endpoints over node:http: GET /v1/models, POST /v1/completions and /v1/chat/completions, the answer as one
 * object or, with "stream": true, as server-sent events. Who may ask, how large, and how many at a time is decided before a
 * body is read. A client that goes away ends its answer. Nothing of what is asked or answered is logged.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server as HttpServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { PipeError } from '../error.js'
import type { Answer, Model } from './model.js'
import { busy, Refusal, refusalOf } from './refusal.js'
import { chatForm, completionForm, type Form, usage } from './reply.js'
import { type Asked, readChat, readCompletion } from './request.js'

export interface ServeOptions {
  readonly host: string
  /** 0: any that is free. */
  readonly port: number
  /** Asked of every request, if given. */
  readonly apiKey?: string
  /** Most bytes of a body. */
  readonly maxBody: number
  /** A line a request: method, path, status, tokens, seconds. And what failed in here. */
  log(line: string): void
}

/** Sockets at a time: far above what slots and queue hold, and a bound of what bodies on their way can take. */
const mostConnections = 256
/** Milliseconds for the head of a request, and for all of it. */
const headTime = 10_000
const requestTime = 60_000
/** Milliseconds between looks at who is late; Node's own are half a minute, in which slow clients could take all sockets. */
const checkTime = 2000

const routes: Readonly<Record<string, 'GET' | 'POST'>> = {
  '/v1/models': 'GET',
  '/v1/completions': 'POST',
  '/v1/chat/completions': 'POST',
}

export class Server {
  readonly #http: HttpServer
  /** Requests being answered; aborting one ends its answer. */
  readonly #under = new Set<AbortController>()
  /** Those of them whose bodies are still on their way. */
  readonly #reading = new Set<AbortController>()
  #closing = false
  #idle: (() => void) | undefined
  readonly #key: Buffer | undefined
  readonly #started = Math.floor(Date.now() / 1000)

  private constructor(
    private readonly model: Model,
    private readonly o: ServeOptions,
  ) {
    this.#key = o.apiKey === undefined ? undefined : digest(Buffer.from(o.apiKey))
    this.#http = createServer({ connectionsCheckingInterval: checkTime }, (request, response) => void this.#answer(request, response))
    this.#http.maxConnections = mostConnections
    this.#http.headersTimeout = headTime
    this.#http.requestTimeout = requestTime
    // One a request on its way, and clients may send many before they read an answer.
    this.#http.on('connection', socket => socket.setMaxListeners(0))
  }

  /** Resolves once it listens. Raises PipeError when the port or the address can't be had. */
  static async listen(model: Model, o: ServeOptions): Promise<Server> {
    const server = new Server(model, o)
    try {
      server.#http.listen(o.port, o.host)
      await once(server.#http, 'listening')
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      const where = `${o.host}:${o.port}`
      if (code === 'EADDRINUSE')
        throw new PipeError('input', { where, message: 'the port is in use by another program.', hint: 'Give another with --port.' })
      if (code === 'EACCES')
        throw new PipeError('input', { where, message: 'the port may not be used by this user.', hint: 'Give one from 1024 with --port.' })
      throw new PipeError('input', {
        where,
        message: `can't be listened on (${code}).`,
        hint: 'Give an address of this machine with --host.',
      })
    }
    return server
  }

  get url(): string {
    const { address, family, port } = this.#http.address() as AddressInfo
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  }

  /**
   * Listens no more, refuses what is still being read, lets answers under way finish for so many milliseconds, ends the rest,
   * and resolves when all are over.
   */
  async close(grace: number): Promise<void> {
    this.#closing = true
    const closed = once(this.#http, 'close')
    this.#http.close()
    this.#http.closeIdleConnections()
    for (const abort of this.#reading) abort.abort()
    const finished = new Promise<void>(resolve => {
      this.#idle = resolve
      if (this.#under.size === 0) resolve()
    })
    const late = setTimeout(() => {
      for (const abort of this.#under) abort.abort()
    }, grace)
    // A client that reads nothing can't hold it up: it has a second for the last words.
    let last: NodeJS.Timeout | undefined
    const patience = new Promise<void>(resolve => {
      last = setTimeout(resolve, grace + 1000)
    })
    await Promise.race([finished, patience])
    clearTimeout(late)
    clearTimeout(last)
    this.#http.closeAllConnections()
    await closed
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const started = performance.now()
    const abort = new AbortController()
    response.on('error', () => abort.abort())
    response.on('close', () => {
      if (!response.writableFinished) abort.abort()
    })
    // Behind another on its connection a response has no socket yet, and Node does not tell it that the client left.
    const gone = () => {
      if (response.socket !== null) return
      response.destroy()
      response.emit('close')
    }
    request.socket.once('close', gone)
    this.#under.add(abort)
    // A client may send the whole address (RFC 9112, section 3.2.2).
    const path = (request.url ?? '').replace(/^https?:\/\/[^/?]*/i, '').split('?', 1)[0] ?? ''
    let counts = ''
    try {
      counts = await this.#route(path, request, response, abort)
    } catch (thrown) {
      // What is thrown after an abort comes of it: the client has gone, or close() ended the request.
      const error = abort.signal.aborted ? closing() : thrown
      if (!(error instanceof Refusal)) this.#tell(error)
      refuse(response, refusalOf(error))
    }
    if (!response.writableFinished && !response.destroyed) await once(response, 'close').catch(() => {})
    request.socket.off('close', gone)
    this.#under.delete(abort)
    if (this.#under.size === 0) this.#idle?.()
    const known = Object.hasOwn(routes, path) || path.startsWith('/v1/models/') ? path.slice(0, 80) : '(another path)'
    const status = response.destroyed && !response.writableFinished ? 'left' : response.statusCode
    const seconds = ((performance.now() - started) / 1000).toFixed(2)
    this.o.log(`${new Date().toISOString()} ${request.method} ${known} ${status}${counts} ${seconds} s`)
  }

  /** What failed in here; what is the client's to mend it is told. */
  #tell(error: unknown): void {
    if (!(error instanceof PipeError)) this.o.log(`failed: ${(error as Error).stack}`)
    else if (error.code !== 'input' && error.code !== 'busy') this.o.log(`failed: ${error.message}`)
  }

  /** Returns what to log of the tokens. */
  async #route(path: string, request: IncomingMessage, response: ServerResponse, abort: AbortController): Promise<string> {
    if (this.#closing) throw closing()
    this.#admit(request)
    const single = path.startsWith('/v1/models/')
    const method = single ? 'GET' : Object.hasOwn(routes, path) ? routes[path] : undefined
    if (method === undefined) throw new Refusal(404, `There is nothing under this path. Known: ${Object.keys(routes).join(', ')}.`)
    if (request.method !== method && !(request.method === 'HEAD' && method === 'GET'))
      throw new Refusal(405, `This path takes ${method}, not ${request.method}.`, { headers: { allow: method } })
    const { model } = this
    const { signal } = abort
    const about = { id: model.name, object: 'model', created: this.#started, owned_by: 'pipe' }
    if (path === '/v1/models') return sendJson(response, 200, { object: 'list', data: [about] })
    if (single) {
      if (decoded(path.slice('/v1/models/'.length)) === model.name) return sendJson(response, 200, about)
      throw new Refusal(404, `There is no such model here; this server has ${JSON.stringify(model.name)}.`, { code: 'model_not_found' })
    }
    if (model.full) throw busy('All slots are in use and the queue is full.')
    this.#reading.add(abort)
    const text = await readBody(request, this.o.maxBody, signal).finally(() => this.#reading.delete(abort))
    if (path === '/v1/completions') {
      const asked = readCompletion(text, model.name)
      return send(response, completionForm(model.name), asked, await model.complete(asked.prompt, asked.drawing, signal), signal)
    }
    const asked = readChat(text, model.name)
    return send(response, chatForm(model.name), asked, await model.chat(asked.messages, asked.drawing, signal), signal)
  }

  /** Whether it may ask. A page in a browser on this machine may not: neither by a name of its own for this address, nor by a form. */
  #admit(request: IncomingMessage): void {
    if (local(this.o.host) && !/^(localhost|127\.[\d.]+|\[::1\])(:\d+)?$/i.test(request.headers.host ?? ''))
      throw new Refusal(403, 'This server answers on this machine alone: to localhost or 127.0.0.1.')
    if (this.#key !== undefined) {
      const [, given = ''] = /^Bearer\s+(.+)$/i.exec(request.headers.authorization ?? '') ?? []
      // Node gives each byte as a letter: these are bytes of UTF-8, as a terminal sends them, or letters, as JavaScript's fetch does.
      const isKey = (['latin1', 'utf8'] as const).map(as => timingSafeEqual(digest(Buffer.from(given, as)), this.#key as Buffer))
      if (!isKey.includes(true))
        throw new Refusal(401, 'The API key is missing or wrong: send it as "Authorization: Bearer KEY".', {
          code: 'invalid_api_key',
          headers: { 'www-authenticate': 'Bearer' },
        })
    }
    if (request.method === 'POST' && !/^application\/json\s*(;|$)/i.test(request.headers['content-type'] ?? ''))
      throw new Refusal(415, 'Send the body as "Content-Type: application/json".')
  }
}

/** Whether an address is of this machine alone. */
export const local = (host: string): boolean => /^(127\.[\d.]+|::1|localhost)$/.test(host)

/** What a part of a path says: which characters are encoded is the client's choice. Undefined: nothing. */
function decoded(part: string): string | undefined {
  try {
    return decodeURIComponent(part)
  } catch {
    return undefined
  }
}

/** Of equal length whatever was given, for a comparison that takes equal time. */
const digest = (key: Buffer): Buffer => createHash('sha256').update(key).digest()

const closing = (): Refusal => new Refusal(503, 'The server is being closed.', { headers: { connection: 'close' } })

/** What is too long is not kept; the client hears so at once. */
async function readBody(request: IncomingMessage, most: number, signal: AbortSignal): Promise<string> {
  const tooLong = new Refusal(413, `The body is longer than ${most} bytes.`)
  if (Number(request.headers['content-length'] ?? 0) > most) throw tooLong
  const chunks: Buffer[] = []
  let size = 0
  await new Promise<void>((resolve, reject) => {
    request.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= most) chunks.push(chunk)
      else {
        chunks.length = 0
        reject(tooLong)
      }
    })
    request.on('end', resolve)
    request.on('close', () => reject(new Refusal(400, 'The body ended too soon.')))
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks))
  } catch {
    throw new Refusal(400, 'The body is not UTF-8 text.')
  }
}

async function send(
  response: ServerResponse,
  form: Form,
  asked: Asked,
  { promptTokens, pieces }: Answer,
  signal: AbortSignal,
): Promise<string> {
  let text = ''
  let tokens = 0
  let end: 'stop' | 'length' | undefined
  const event = async (data: object | string): Promise<void> => {
    const line = `data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`
    if (!response.write(line)) await once(response, 'drain', { signal })
  }
  if (asked.stream) {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' })
    if (form.first !== undefined) await event(form.first)
    else response.flushHeaders()
  }
  for await (const piece of pieces) {
    ;({ tokens, end } = { tokens: piece.tokens, end: piece.end })
    if (!asked.stream) text += piece.text
    else if (piece.text !== '') await event(form.piece(piece.text, null))
  }
  if (end === undefined) throw closing()
  const counts = usage(promptTokens, tokens)
  if (!asked.stream) sendJson(response, 200, form.whole(text, end, counts))
  else {
    await event(form.piece('', end))
    if (asked.streamUsage) await event(form.counts(counts))
    await event('[DONE]')
    response.end()
  }
  return ` ${promptTokens} + ${tokens} tokens`
}

function sendJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): string {
  const text = JSON.stringify(body)
  response.writeHead(status, { ...headers, 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }).end(text)
  return ''
}

/** In the midst of a stream as its last event: its status has been said. */
function refuse(response: ServerResponse, refusal: Refusal): void {
  if (response.destroyed) return
  if (response.headersSent) response.end(`data: ${JSON.stringify(refusal.body)}\n\n`)
  else sendJson(response, refusal.status, refusal.body, refusal.o.headers)
}
