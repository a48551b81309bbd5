/** The bodies of /v1/completions and /v1/chat/completions: what of OpenAI's parameters is understood, and everything else refused by name. */
import { didYouMean } from '../error.js'
import type { Drawing, Message } from './model.js'
import { Refusal } from './refusal.js'

export interface Asked {
  readonly drawing: Drawing
  readonly stream: boolean
  /** A last event with the counts of tokens. */
  readonly streamUsage: boolean
}
export interface AskedCompletion extends Asked {
  readonly prompt: string
}
export interface AskedChat extends Asked {
  readonly messages: readonly Message[]
}

type Body = Readonly<Record<string, unknown>>
const isObject = (value: unknown): value is Body => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Not more: each is searched for in every piece of text. */
const mostStops = 16
const longestStop = 1000
const mostMessages = 10_000

/** Understood, by both. */
const drawn = [
  'model',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'repetition_penalty',
  'seed',
  'stop',
  'max_tokens',
  'n',
  'stream',
  'stream_options',
]
/** Say who asks, or what is kept of it: nothing is. */
const ignored = ['user', 'metadata', 'store', 'safety_identifier', 'prompt_cache_key', 'service_tier']
/** Accepted with the value that changes nothing; null is one for all. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  presence_penalty: [0],
  frequency_penalty: [0],
  logit_bias: [{}],
  logprobs: [false],
  best_of: [1],
  echo: [false],
  suffix: [''],
  tools: [[]],
  tool_choice: ['none', 'auto'],
  functions: [[]],
  parallel_tool_calls: [true, false],
  response_format: [{ type: 'text' }],
  modalities: [['text']],
  top_logprobs: [],
}

/** Raises Refusal (400) naming the parameter. `named`: what the model is called. */
export function readCompletion(text: string, named: string): AskedCompletion {
  const body = readBody(text, named, ['prompt'])
  const [only, ...others] = Array.isArray(body.prompt) ? (body.prompt as unknown[]) : [body.prompt]
  if (typeof only !== 'string' || others.length > 0) throw wrong('prompt', 'a text (one, not several, and not token ids)', body.prompt)
  // The figure of OpenAI's own: whoever does not say gets a taste.
  return { ...readAsked(body, 16), prompt: only }
}

/** Raises Refusal (400) naming the parameter. */
export function readChat(text: string, named: string): AskedChat {
  const body = readBody(text, named, ['messages', 'max_completion_tokens'])
  const { messages } = body
  if (!Array.isArray(messages) || messages.length === 0) throw wrong('messages', 'a list of at least one message', messages)
  if (messages.length > mostMessages)
    throw new Refusal(400, `messages has ${messages.length} entries; ${mostMessages} is the most.`, { param: 'messages' })
  return { ...readAsked(body), messages: messages.map(readMessage) }
}

function readBody(text: string, named: string, own: readonly string[]): Body {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    throw new Refusal(400, 'The body is not valid JSON.')
  }
  if (!isObject(body)) throw new Refusal(400, 'The body is not a JSON object.')
  const known = [...own, ...drawn]
  for (const [name, value] of Object.entries(body)) {
    if (known.includes(name) || ignored.includes(name) || value === null) continue
    const allowed = Object.hasOwn(neutral, name) ? neutral[name] : undefined
    if (allowed === undefined) {
      const guess = didYouMean(name, known)
      throw new Refusal(400, `The parameter ${show(name)} is not understood by this server.${guess}`, {
        param: name.slice(0, 64),
        code: 'unsupported_parameter',
      })
    }
    if (allowed.some(good => JSON.stringify(good) === written(value))) continue
    throw new Refusal(400, `The parameter ${show(name)} is not supported by this server: leave it out.`, {
      param: name,
      code: 'unsupported_parameter',
    })
  }
  const model = body.model ?? named
  if (typeof model !== 'string') throw wrong('model', 'a text', model)
  if (model !== named) {
    throw new Refusal(404, `There is no model ${show(model)} here; this server has ${show(named)}.`, {
      param: 'model',
      code: 'model_not_found',
    })
  }
  return body
}

function readAsked(body: Body, most?: number): Asked {
  const n = number(body, 'n', 1, 128, true)
  if (n !== undefined && n !== 1)
    throw new Refusal(400, `n is ${n}; this server gives one answer a request: send it ${n} times.`, { param: 'n' })
  const stream = flag(body, 'stream')
  const options = body.stream_options ?? {}
  if (!isObject(options)) throw wrong('stream_options', 'an object', options)
  if (body.stream_options != null && !stream) throw new Refusal(400, 'stream_options needs "stream": true.', { param: 'stream_options' })
  const tokens = body.max_completion_tokens == null ? 'max_tokens' : 'max_completion_tokens'
  return {
    stream,
    streamUsage: flag(options, 'include_usage'),
    drawing: {
      temperature: number(body, 'temperature', 0, 2) ?? 1,
      topP: number(body, 'top_p', 0, 1) ?? 1,
      topK: number(body, 'top_k', 0, 2 ** 31, true) ?? 0,
      minP: number(body, 'min_p', 0, 1) ?? 0,
      repetitionPenalty: number(body, 'repetition_penalty', 0.01, 100) ?? 1,
      seed: number(body, 'seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, true),
      stop: readStops(body.stop ?? []),
      maxTokens: number(body, tokens, 1, 2 ** 31, true) ?? most,
    },
  }
}

function readStops(value: unknown): string[] {
  const list: unknown[] = Array.isArray(value) ? value : [value]
  const stops = list.filter((stop): stop is string => typeof stop === 'string' && stop !== '' && stop.length <= longestStop)
  if (stops.length === list.length && stops.length <= mostStops) return stops
  throw wrong('stop', `a text, or up to ${mostStops}, none empty, of up to ${longestStop} characters`, value)
}

function readMessage(value: unknown, i: number): Message {
  const where = `messages[${i}]`
  if (!isObject(value)) throw wrong(where, 'an object with "role" and "content"', value)
  const role = value.role === 'developer' ? 'system' : value.role
  if (role !== 'system' && role !== 'user' && role !== 'assistant')
    throw wrong(`${where}.role`, '"system", "user" or "assistant"', value.role)
  return { role, content: readContent(value.content, `${where}.content`) }
}

/** A text, or a list of parts that are all texts. */
function readContent(value: unknown, where: string): string {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) throw wrong(where, 'a text, or a list of { "type": "text", "text": … }', value)
  return value
    .map((part: unknown, i) => {
      if (isObject(part) && part.type === 'text' && typeof part.text === 'string') return part.text
      throw wrong(`${where}[${i}]`, '{ "type": "text", "text": … }', part)
    })
    .join('')
}

function number(body: Body, name: string, least: number, most: number, whole = false): number | undefined {
  const value = body[name] ?? undefined
  if (value === undefined) return undefined
  if (typeof value === 'number' && value >= least && value <= most && (!whole || Number.isInteger(value))) return value
  throw wrong(name, `a ${whole ? 'whole ' : ''}number from ${least} to ${most}`, value)
}

function flag(body: Body, name: string): boolean {
  const value = body[name] ?? false
  if (typeof value === 'boolean') return value
  throw wrong(name, 'true or false', value)
}

const wrong = (param: string, expected: string, found: unknown): Refusal =>
  new Refusal(400, `${param}: expected ${expected} and found ${found === undefined ? 'nothing' : show(found)}.`, {
    param,
    code: 'invalid_value',
  })

/** As JSON; what is nested deeper than the stack as nothing in particular. */
function written(value: unknown): string {
  try {
    return JSON.stringify(value)
  } catch {
    return '…'
  }
}

/** What came, cut short. */
function show(value: unknown): string {
  const text = written(value)
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}
