/**
 * batched-text: one of the texts that a batcher makes side by side: what was asked, where its prompt is, what was made, and
 * what of it was not read yet.
 */
import type { Tokenizer } from 'tokenizers'
import type { Decoder } from './decoder.js'
import { type Draw, drawOf, likeliest, picked, type Sampling } from './sampling.js'
import { StreamedText } from './streamed-text.js'

/** What one text is to be. */
export interface Asked {
  /** Tokens to go on from. */
  readonly prompt: readonly number[]
  readonly sampling: Sampling
  /** Numbers in [0, 1), for the draws. */
  uniform(): number
  /** Most tokens to make, a whole number from 1. Fewer where the model has no position left. */
  readonly maxTokens: number
  /** The text ends before the first of these; none is empty. */
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

/** A request under way: where its prompt is, what was made, and what of it was not read yet. */
export class Row {
  slot = -1
  /** The one to put through the model next. */
  token = -1
  /** What went through the model: of the prompt, then of what was made. */
  readonly held: number[] = []
  /** Its reader has left. */
  left = false
  /** Nothing is made any more. */
  over = false
  /** Nothing follows what is unread. */
  closed = false
  readonly unread: Piece[] = []
  failure: { readonly error: unknown } | undefined
  #last: Piece | undefined
  #made = 0
  #wakers: (() => void)[] = []
  readonly #text: StreamedText
  readonly #most: number

  constructor(
    private readonly asked: Asked,
    tokenizer: Tokenizer,
    private readonly decoder: Pick<Decoder, 'positions' | 'ends' | 'remember'>,
  ) {
    this.#text = new StreamedText(tokenizer, asked.prompt, asked.stop)
    this.#most = Math.min(asked.maxTokens, decoder.positions - asked.prompt.length)
  }

  get joining(): boolean {
    return this.held.length < this.asked.prompt.length
  }

  /** Tokens at the beginning of both, but for the prompt's last: its logits are asked for. */
  same(tokens: readonly number[]): number {
    const { prompt } = this.asked
    const most = Math.min(tokens.length, prompt.length - 1)
    let n = 0
    while (n < most && tokens[n] === prompt[n]) n++
    return n
  }

  /** The slot holds the first `same` tokens of the prompt. */
  into(slot: number, same: number): void {
    const { prompt, sampling } = this.asked
    this.slot = slot
    this.#hold(prompt.slice(0, same))
    if (sampling.repetitionPenalty !== 1) this.decoder.remember(slot, prompt)
  }

  nextOfPrompt(tokens: number): readonly number[] {
    const next = this.asked.prompt.slice(this.held.length, this.held.length + tokens)
    this.#hold(next)
    return next
  }

  /** Whether a token more is wanted when those of so many steps have come, as far as is known now. */
  goesOn(steps: number): boolean {
    return !this.over && !this.left && this.#made + steps < this.#most
  }

  /** How the next token is picked; of a prompt's piece that is not its last, nobody cares. */
  draw(): Draw {
    if (this.joining) return likeliest
    try {
      return drawOf(this.asked.sampling, () => this.asked.uniform())
    } catch (error) {
      this.fail(error)
      return likeliest
    }
  }

  #hold(tokens: readonly number[]): void {
    for (const token of tokens) this.held.push(token)
  }

  /** The token that was picked, and the text that it makes certain. Nothing of what comes when the text is over. */
  async take(id: number | undefined): Promise<void> {
    if (this.over || this.left) return
    const token = picked(id)
    if (this.decoder.ends.has(token) || this.asked.ends?.has(token)) return this.#end('stop', '')
    this.token = token
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

  /** Of a text that has no slot: it ends with this error and nothing else. */
  refuse(error: unknown): void {
    this.fail(error)
    this.close()
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
export class Reading implements AsyncIterableIterator<Piece> {
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
