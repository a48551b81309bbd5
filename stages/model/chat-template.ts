/**
 * chat-template: a conversation → the text that a model was trained to answer, by the Jinja template that comes with it:
 * `chat_template.jinja` in its folder, else "chat_template" of tokenizer_config.json: one template, or several with names,
 * of which "default" is taken. A template sees what transformers shows it: messages, bos_token, eos_token,
 * add_generation_prompt, and no tools and documents. It writes the begin-of-text token itself, so its text is tokenized without special tokens added.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { PipeError } from '../../pipeline/define.js'

export interface Message {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

/** No template is near this; what is larger is some other file. */
const longest = 2 ** 20
/** Milliseconds that a template has; real ones take one or two. */
const patience = 1000
/** What a template's loops and macros call, as `withClock` has it; no template's own name. */
const clock = 'pipe_has_time'
/** What its `range` is, in the same way. */
const bounded = 'pipe_range'
/** Numbers that a range may have; real templates count messages. */
const longestRange = 100_000
const hint = 'Give one with --template FILE: Jinja, as in chat_template.jinja of the model it was tuned from.'

export class ChatTemplate {
  private constructor(
    private readonly template: Template,
    private readonly where: string,
    private readonly special: Readonly<Record<string, string>>,
  ) {}

  /** The token that ends an answer, as text, if tokenizer_config.json names one. */
  get end(): string | undefined {
    return this.special.eos_token
  }

  /**
   * The template of a model's folder, or the one in `file`; undefined when the folder has none. Raises PipeError when what
   * is there can't be read, is no template, or is several of which none is "default".
   */
  static async open(folder: string, file?: string): Promise<ChatTemplate | undefined> {
    const config = join(folder, 'tokenizer_config.json')
    const settings = parseObject(config, (await read(config)) ?? '{}')
    const special = specialTokens(settings)
    const own = file ?? join(folder, 'chat_template.jinja')
    const text = await read(own)
    if (text === undefined && file !== undefined) {
      throw new PipeError('input', { where: file, message: 'expected a chat template and found no such file.' })
    }
    const [where, source] = text === undefined ? [config, chosen(config, settings.chat_template)] : [own, text]
    if (source === undefined) return undefined
    try {
      return new ChatTemplate(withClock(new Template(source)), where, special)
    } catch (error) {
      const why = error instanceof TypeError ? 'it ends too soon.' : reason(error) // so the parser words that
      throw new PipeError('input', { where, message: `the chat template is no valid Jinja: ${why}`, hint })
    }
  }

  /** What to say when `open` gave undefined and a conversation is asked for. */
  static missing(folder: string): PipeError {
    return new PipeError('input', {
      where: folder,
      message: 'the model has no chat template: how a conversation is put to it is not known.',
      hint,
    })
  }

  /** The conversation as text, up to where the model's answer begins. Raises PipeError when the template refuses it. */
  render(messages: readonly Message[]): string {
    const deadline = performance.now() + patience
    const hasTime = () => {
      if (performance.now() > deadline) throw new Error('it has not ended after a second.')
      return ''
    }
    const given = {
      ...this.special,
      messages: messages.map(message => ({ ...message })),
      add_generation_prompt: true,
      tools: null,
      documents: null,
      [clock]: hasTime,
      [bounded]: range,
    }
    let text: unknown
    try {
      text = this.template.render(given)
    } catch (error) {
      throw new PipeError('input', { where: this.where, message: `the chat template refuses this conversation: ${reason(error)}` })
    }
    if (typeof text === 'string' && text !== '') return text
    throw new PipeError('input', { where: this.where, message: 'the chat template makes an empty text of this conversation.', hint })
  }
}

/**
 * A template comes with a model, and is a program: one that does not end would keep everybody else waiting. So each turn of
 * a loop and each call of a macro begins with a look at the clock. Not by the timeout of node:vm: now and then V8 cannot end
 * what it has optimized, and ends the process ("Missing deoptimization information", Node 20). A range is a list before any
 * turn of a loop: it has a bound.
 */
function withClock(template: Template): Template {
  const [look] = new Template(`{{ ${clock}() }}`).parsed.body
  const nodes: unknown[] = [template.parsed]
  for (let node = nodes.pop(); node !== undefined; node = nodes.pop()) {
    if (typeof node !== 'object' || node === null) continue
    const { type, body } = node as { type?: unknown; body?: unknown }
    for (const inner of Object.values(node)) nodes.push(inner ?? null)
    if ((type === 'For' || type === 'Macro') && Array.isArray(body)) body.unshift(look)
  }
  template.parsed.body.unshift(...new Template(`{% set range = ${bounded} %}`).parsed.body)
  return template
}

/** Python's. */
function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const length = Math.max(0, Math.ceil((to - from) / step))
  if (length <= longestRange) return Array.from({ length }, (_, i) => from + i * step)
  throw new Error(`a range has ${length} numbers; ${longestRange} is the most.`)
}

/** A sentence of one line, whatever a template's author or the interpreter wrote. */
function reason(error: unknown): string {
  const text = (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ').trim()
  return `${text.length > 300 ? `${text.slice(0, 300)} …` : text}${/[.!?]$/.test(text) ? '' : '.'}`
}

async function read(path: string): Promise<string | undefined> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw new PipeError('input', { where: path, message: `could not be read (${error.code}).` })
  })
  if (bytes !== undefined && bytes.length > longest)
    throw new PipeError('input', { where: path, message: `has ${bytes.length} bytes; ${longest} is the most that is read.` })
  try {
    return bytes === undefined ? undefined : new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new PipeError('input', { where: path, message: 'is not UTF-8 text.' })
  }
}

function parseObject(where: string, text: string): Readonly<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new PipeError('input', { where, message: `is not valid JSON: ${(error as Error).message}.` })
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new PipeError('input', { where, message: 'expected a JSON object.' })
}

/** bos_token, eos_token: text, or an object with the text under "content". */
function specialTokens(settings: Readonly<Record<string, unknown>>): Record<string, string> {
  const special: Record<string, string> = {}
  for (const name of ['bos_token', 'eos_token', 'pad_token', 'unk_token']) {
    const value = settings[name]
    const text = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value
    if (typeof text === 'string') special[name] = text
  }
  return special
}

/** "chat_template": the template, or [{ name, template }]. */
function chosen(where: string, value: unknown): string | undefined {
  if (value === undefined || value === null || typeof value === 'string') return value ?? undefined
  const list: unknown[] = Array.isArray(value) ? value : [value]
  const named = list.filter(
    (entry): entry is { name: string; template: string } =>
      typeof (entry as { name?: unknown } | null)?.name === 'string' && typeof (entry as { template?: unknown }).template === 'string',
  )
  const only = named.find(({ name }) => name === 'default') ?? (named.length === 1 ? named[0] : undefined)
  if (only !== undefined && named.length === list.length) return only.template
  const found =
    named.length === list.length ? named.map(({ name }) => JSON.stringify(name)).join(', ') || 'an empty list' : 'something else'
  throw new PipeError('input', {
    where,
    message: `expected "chat_template" to be a text, or a list with one named "default", and found ${found}.`,
    hint,
  })
}
