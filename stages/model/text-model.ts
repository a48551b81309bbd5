/**
 * text-model: a checkpoint opened to answer: its tokenizer, its chat template, a decoder with slots, and the batcher that
 * runs them. What `pipe chat` and `pipe serve` talk to, and programs: `import { TextModel } from 'pipe/text'`.
 */
import type { Tokenizer } from 'tokenizers'
import type { Ops } from '../../native/ops.js'
import { PipeError } from '../../pipeline/define.js'
import type { Asked, Piece } from './batched-text.js'
import { Batcher } from './batcher.js'
import { ChatTemplate, type Message } from './chat-template.js'
import { openCheckpoint } from './checkpoint.js'
import { Decoder, type DecoderOptions } from './decoder.js'
import { expectRoom, noRoom } from './kv-cache.js'
import { openWeights, type Weights } from './quantized.js'
import { checkSampling, greedy } from './sampling.js'
import { openTokenizer, tokensOf } from './text.js'

export type { Piece } from './batched-text.js'
export type { Message } from './chat-template.js'
export type { Sampling } from './sampling.js'

/** A cache of all positions that a model was made for may be larger than the model: not without being asked for. */
const usual = 4096

export interface TextModelOptions extends Pick<DecoderOptions, 'weights' | 'cache'> {
  /** Texts at a time. Default: 8. */
  readonly slots?: number
  /** Requests that may wait for a slot. Default: 32. */
  readonly queue?: number
  /** Positions of each slot; the model's own, but at most 4096, if left out. Never more than the model's own. */
  readonly context?: number
  /** File of a chat template to take for the model's own. */
  readonly template?: string
  /** Bytes that are free on the device: keys and values that take more are refused before the weights are opened. */
  readonly free?: number
  /** Refuse, before the weights are opened, a model without a chat template. */
  readonly mustChat?: boolean
}

/** How an answer is to be. Default: the likeliest token always, as long as there are positions. */
export type AnswerOptions = Partial<Pick<Asked, 'sampling' | 'uniform' | 'stop' | 'signal' | 'maxTokens'>>

export interface Answer {
  readonly promptTokens: number
  readonly pieces: AsyncIterableIterator<Piece>
}

/** Characters from which a text is long: it takes a thread of the tokenizer for a while, and there are four for all. */
const long = 2 ** 15

export class TextModel implements AsyncDisposable {
  /** Settled when the last of the long texts so far is tokenized. */
  #turn: Promise<unknown> = Promise.resolve()

  private constructor(
    private readonly folder: string,
    private readonly tokenizer: Tokenizer,
    private readonly template: ChatTemplate | undefined,
    private readonly weights: Weights,
    private readonly decoder: Decoder,
    private readonly batcher: Batcher,
  ) {}

  /**
   * Raises PipeError as openCheckpoint, openTokenizer, ChatTemplate.open and Decoder.open do, and 'memory' when weights, keys
   * and values find no room on the device.
   */
  static async open(ops: Ops, folder: string, o: TextModelOptions = {}): Promise<TextModel> {
    const { slots = 8, queue = 32, free } = o
    const checkpoint = await openCheckpoint(folder)
    const tokenizer = await openTokenizer(folder, checkpoint.config.sizes.vocab)
    const template = await ChatTemplate.open(folder, o.template)
    if (template === undefined && o.mustChat) throw ChatTemplate.missing(folder)
    const { positions: own = Number.POSITIVE_INFINITY } = checkpoint.config
    const positions = Math.min(o.context ?? usual, own)
    const shape = { slots, capacity: positions, dtype: o.cache ?? 'f32' }
    const hint = `Give a smaller --context${slots > 1 ? ' or fewer --slots' : ''}`
    expectRoom(folder, checkpoint.config, shape, hint, free)
    const weights = await openWeights(ops, checkpoint)
    let decoder: Decoder | undefined
    try {
      decoder = await Decoder.open(ops, weights, { ...o, slots, positions })
      await ops.finish() // memory is taken when an op first touches it
      return new TextModel(folder, tokenizer, template, weights, decoder, new Batcher(decoder, tokenizer, queue))
    } catch (error) {
      decoder?.[Symbol.dispose]()
      weights[Symbol.dispose]()
      throw noRoom(folder, checkpoint.config, shape, hint, error)
    }
  }

  /** Tokens that a prompt and its answer may have together. */
  get positions(): number {
    return this.decoder.positions
  }

  /** Slots in use, requests waiting, and whether one more would be refused. */
  get load(): { readonly active: number; readonly waiting: number; readonly full: boolean } {
    const { active, waiting, full } = this.batcher
    return { active, waiting, full }
  }

  /** Whether conversations can be put to it. */
  get chats(): boolean {
    return this.template !== undefined
  }

  /** What goes on from a text. Raises RangeError when an option is out of its range, PipeError when the text is empty, and as Batcher.text does. */
  async complete(prompt: string, o: AnswerOptions = {}): Promise<Answer> {
    checkOptions(o)
    // It may have a token all the same: the one that begins every text.
    if (prompt === '') throw new PipeError('input', { message: 'the prompt is empty: there is nothing to go on from.' })
    return this.#answer(await this.#tokens(prompt, true, o.signal), o)
  }

  /**
   * What the model answers to a conversation. Raises RangeError when an option is out of its range, PipeError when there is no
   * template, or it refuses, and as Batcher.text does.
   */
  async chat(messages: readonly Message[], o: AnswerOptions = {}): Promise<Answer> {
    checkOptions(o)
    if (this.template === undefined) throw ChatTemplate.missing(this.folder)
    // Each takes a token or more, and the template its time: nobody else is served meanwhile.
    if (messages.length > this.positions) {
      const message = `the conversation has ${messages.length} messages and there is room for ${this.positions} tokens.`
      throw new PipeError('input', { message, hint: 'Give fewer messages.' })
    }
    const text = this.template.render(messages)
    const prompt = await this.#tokens(text, false, o.signal)
    // Some models are told to end texts by one token and answers by another.
    const end = this.template.end === undefined ? undefined : (this.tokenizer.tokenToId(this.template.end) ?? undefined)
    return this.#answer(prompt, o, end === undefined ? undefined : new Set([end]))
  }

  /** Long texts one after the other, so that those who ask for little and those who are being answered do not wait for them. */
  async #tokens(text: string, addSpecialTokens: boolean, signal?: AbortSignal): Promise<number[]> {
    const encode = async (): Promise<number[]> => {
      if (signal?.aborted) return [0] // the batcher begins nothing for it
      return (await tokensOf(this.tokenizer, [text], addSpecialTokens)).flat()
    }
    if (text.length < long) return encode()
    const turn = this.#turn.then(encode)
    this.#turn = turn.catch(() => {}) // told to who asked
    return turn
  }

  #answer(prompt: readonly number[], o: AnswerOptions, ends?: ReadonlySet<number>): Answer {
    const { sampling = greedy, uniform = Math.random, stop = [], maxTokens = this.positions, signal } = o
    const pieces = this.batcher.text({ prompt, sampling, uniform, stop, maxTokens, ends, signal })
    return { promptTokens: prompt.length, pieces }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.batcher[Symbol.asyncDispose]()
    this.decoder[Symbol.dispose]()
    this.weights[Symbol.dispose]()
  }
}

function checkOptions({ sampling = greedy, stop = [], maxTokens = 1 }: AnswerOptions): void {
  checkSampling(sampling)
  if (!Number.isInteger(maxTokens) || maxTokens < 1) throw new RangeError(`maxTokens must be a whole number from 1, got ${maxTokens}`)
  const at = stop.indexOf('')
  if (at >= 0) throw new RangeError(`stop[${at}] must be a text that is not empty`)
}
