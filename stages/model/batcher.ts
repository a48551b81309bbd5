/**
 * batcher: several texts at a time from one model, each with its own prompt, sampling, seed and end. Every step puts one
 * token of each text that is under way through the model, side by side (continuous batching: Yu et al., Orca, OSDI 2022,
 * section 3.1). A new text joins between two steps, where a slot is free; its prompt goes in by pieces of `piece` tokens,
 * one piece between two steps, so that the texts under way wait for no long prompt.
 *
 * A text depends on its request alone: rows of a step don't see each other, and each draws from a stream of its own. What
 * runs beside it changes its logits by no more than the rounding of products of other sizes; equal requests give equal
 * texts but where two tokens are as likely as each other to that precision.
 */
import type { Tokenizer } from 'tokenizers'
import { PipeError } from '../../pipeline/define.js'
import type { Decoder } from './decoder.js'
import { type Sampling, sample } from './sampling.js'
import { StreamedText } from './streamed-text.js'

/** Tokens of a prompt between two steps. */
const piece = 256

/** What one text is to be. */
export interface Asked {
  /** Tokens to go on from. */
  readonly prompt: readonly number[]
  readonly sampling: Sampling
  /** Numbers in [0, 1), for the draws. */
  uniform(): number
  /** Most tokens to make. Fewer where the model has no position left. */
  readonly maxTokens: number
  /** The text ends before the first of these. */
  readonly stop: readonly string[]
  /** Tokens that end this text, beside those that end any. */
  readonly ends?: ReadonlySet<number>
  /** Aborted when nobody waits for the text any more. */
  readonly signal?: AbortSignal
}

/** A piece of a text: what became certain, and how many tokens were made so far. The last one says why it ended. */
export interface Piece {
  readonly text: string
  readonly tokens: number
  /** stop: the model or a stop string ended it; length: maxTokens, or the last position. */
  readonly end?: 'stop' | 'length'
}

/** What a batcher needs of a decoder. */
export type Slots = Pick<Decoder, 'slots' | 'positions' | 'ends' | 'prefill' | 'step' | 'free'>

export class Batcher implements AsyncDisposable {
  /** Under way, by slot, and waiting for one, in the order they came. */
  readonly #rows = new Map<number, Row>()
  readonly #waiting: Row[] = []
  #running: Promise<void> | undefined
  #closed = false

  /** The decoder stays its owner's. `queue`: most requests that wait for a slot. */
  constructor(
    private readonly decoder: Slots,
    private readonly tokenizer: Tokenizer,
    private readonly queue: number,
  ) {}

  /** Slots in use. */
  get active(): number {
    return this.#rows.size
  }

  /** Requests that wait for a slot. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Whether a request would be refused now. */
  get full(): boolean {
    return this.#closed || this.active + this.waiting >= this.decoder.slots + this.queue
  }

  /**
   * The text of a request, by pieces, as they become certain. It is begun at once, whether read or not; a reader who leaves
   * the loop, or aborts the signal, ends it and frees its slot. Raises PipeError at once: 'input' when the prompt is empty or
   * leaves no position, 'busy' when all slots and the queue are taken; and while it is read, what went wrong in the model.
   */
  text(asked: Asked): AsyncIterableIterator<Piece> {
    checkPrompt(asked.prompt.length, this.decoder.positions)
    if (this.full) {
      const message = this.#closed
        ? 'the model is being closed.'
        : `all ${this.decoder.slots} slots are in use and ${this.waiting} requests wait.`
      throw new PipeError('busy', { message, hint: 'Try again later.' })
    }
    const row = new Row(asked, this.tokenizer, this.decoder)
    const leave = () => this.#leave(row)
    if (asked.signal?.aborted) row.left = true
    else this.#waiting.push(row)
    asked.signal?.addEventListener('abort', leave, { once: true })
    this.#running ??= this.#run()
    return new Reading(row, () => {
      asked.signal?.removeEventListener('abort', leave)
      leave()
    })
  }

  /** Ends what is under way, without its last piece, and waits until every slot is free. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    for (const row of [...this.#rows.values(), ...this.#waiting]) this.#leave(row)
    await this.#running
  }

  #leave(row: Row): void {
    row.left = true
    row.wake()
    const at = this.#waiting.indexOf(row)
    if (at >= 0) this.#waiting.splice(at, 1)
  }

  /** Until there is no request. Slots change hands here alone, never while the decoder works on them. */
  async #run(): Promise<void> {
    await undefined // what asks comes to its loop first
    for (;;) {
      this.#sweep()
      for (let slot = 0; slot < this.decoder.slots && this.#waiting.length > 0; slot++) {
        if (!this.#rows.has(slot)) this.#rows.set(slot, this.#waiting.shift()!.into(slot))
      }
      if (this.#rows.size === 0) break
      const joining = [...this.#rows.values()].find(row => row.joining)
      if (joining !== undefined) await this.#prefill(joining)
      this.#sweep()
      const ready = [...this.#rows.values()].filter(row => !row.joining)
      if (ready.length > 0) await this.#step(ready)
    }
    this.#running = undefined
  }

  /** Frees the slots of those that ended or left. Then they are told: who asks again at once finds the slot free. */
  #sweep(): void {
    for (const row of this.#rows.values()) {
      if (!row.left && !row.over) continue
      this.#rows.delete(row.slot)
      this.decoder.free(row.slot)
      row.close()
    }
  }

  async #prefill(row: Row): Promise<void> {
    const next = row.nextOfPrompt(piece)
    try {
      const logits = await this.decoder.prefill(row.slot, next)
      if (!row.joining && !row.left) await row.take(logits)
    } catch (error) {
      row.fail(error)
    }
  }

  async #step(rows: readonly Row[]): Promise<void> {
    try {
      const logits = await this.decoder.step(rows.map(({ slot, token }) => ({ slot, token })))
      await Promise.all(rows.map((row, i) => row.take(logits[i]!).catch(error => row.fail(error))))
    } catch (error) {
      for (const row of rows) row.fail(error)
    }
  }
}

/** A request under way: where its prompt is, what was made, and what of it was not read yet. */
class Row {
  slot = -1
  /** The one to put through the model next. */
  token = -1
  /** Its reader has left. */
  left = false
  /** Nothing is made any more. */
  over = false
  /** Nothing follows what is unread. */
  closed = false
  readonly unread: Piece[] = []
  failure: { readonly error: unknown } | undefined
  #last: Piece | undefined
  #fed = 0
  #made = 0
  #wakers: (() => void)[] = []
  readonly #text: StreamedText
  readonly #seen: Set<number>
  readonly #most: number

  constructor(
    private readonly asked: Asked,
    tokenizer: Tokenizer,
    private readonly decoder: Slots,
  ) {
    this.#text = new StreamedText(tokenizer, asked.prompt, asked.stop)
    this.#seen = new Set(asked.prompt)
    this.#most = Math.min(asked.maxTokens, decoder.positions - asked.prompt.length)
  }

  get joining(): boolean {
    return this.#fed < this.asked.prompt.length
  }

  into(slot: number): this {
    this.slot = slot
    return this
  }

  nextOfPrompt(tokens: number): readonly number[] {
    const next = this.asked.prompt.slice(this.#fed, this.#fed + tokens)
    this.#fed += next.length
    return next
  }

  /** The token that these logits give, and the text that it makes certain. */
  async take(logits: Float32Array): Promise<void> {
    const token = sample(logits, this.#seen, this.asked.sampling, () => this.asked.uniform())
    if (this.decoder.ends.has(token) || this.asked.ends?.has(token)) return this.#end('stop', '')
    this.token = token
    this.#seen.add(token)
    this.#made++
    const text = await this.#text.push(token)
    if (this.#text.stopped) return this.#end('stop', text)
    if (this.#made >= this.#most) return this.#end('length', text)
    if (text !== '') this.#give({ text, tokens: this.#made })
  }

  async #end(end: 'stop' | 'length', text: string): Promise<void> {
    const rest = await this.#text.end()
    // A stop string may be in what was held back.
    this.#last = { text: text + rest, tokens: this.#made, end: this.#text.stopped ? 'stop' : end }
    this.over = true
  }

  fail(error: unknown): void {
    this.over = true
    this.failure = { error }
  }

  close(): void {
    if (this.#last !== undefined) this.unread.push(this.#last)
    this.closed = true
    this.wake()
  }

  #give(next: Piece): void {
    this.unread.push(next)
    this.wake()
  }

  /** Resolves at the next piece, failure, or leaving. */
  changed(): Promise<void> {
    return new Promise(resolve => {
      this.#wakers.push(resolve)
    })
  }

  wake(): void {
    for (const wake of this.#wakers.splice(0)) wake()
  }
}

/** Not a generator function: one that was never begun would not hear that its reader has left. What is not read waits: a few hundred kilobytes at most. */
class Reading implements AsyncIterableIterator<Piece> {
  constructor(
    private readonly row: Row,
    private readonly leave: () => void,
  ) {}

  async next(): Promise<IteratorResult<Piece, undefined>> {
    const { row } = this
    while (row.unread.length === 0 && !row.closed && !row.left) await row.changed()
    const value = row.left ? undefined : row.unread.shift()
    if (value !== undefined) return { done: false, value }
    const { failure } = row
    row.failure = undefined
    await this.return()
    if (failure !== undefined) throw failure.error
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<Piece, undefined>> {
    this.leave()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

function checkPrompt(tokens: number, positions: number): void {
  if (tokens === 0) throw new PipeError('input', { message: 'the prompt is empty: there is nothing to go on from.' })
  if (tokens < positions) return
  throw new PipeError('input', {
    message: `the prompt has ${tokens} tokens and there is room for ${positions}: none is left to answer in.`,
    hint: 'Give a shorter prompt.',
  })
}
