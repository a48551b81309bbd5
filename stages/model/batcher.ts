/**
 * batcher: several texts at a time from one model, each with its own prompt, sampling, seed and end. Every step puts one
 * token of each text that is under way through the model, side by side (continuous batching: Yu et al., Orca, OSDI 2022,
 * section 3.1). A new text joins between two steps, where a slot is free; its prompt goes in by pieces of `piece` tokens,
 * one piece between two steps, so that the texts under way wait for no long prompt. As long as the same texts go on, a step
 * begins before the tokens of the one before are read; what it makes of a text that turns out to be over is dropped.
 *
 * A slot keeps what went through the model until another text needs it: a prompt that begins as one that a free slot still
 * holds, as in a conversation, goes in from where they differ.
 *
 * A text depends on its request alone: rows of a step don't see each other, and each draws from a stream of its own. What
 * runs beside it, and what a slot held, changes its logits by no more than the rounding of products of other sizes and of
 * the cache; equal requests give equal texts but where two tokens are as likely as each other to that precision.
 */
import type { Tokenizer } from 'tokenizers'
import { PipeError } from '../../pipeline/define.js'
import { type Asked, type Piece, Reading, Row } from './batched-text.js'
import { ahead, type Decoder } from './decoder.js'

/** Tokens of a prompt between two steps. */
const piece = 256

/** What a batcher needs of a decoder. */
export type Slots = Pick<Decoder, 'slots' | 'positions' | 'ends' | 'pickAfter' | 'pick' | 'remember' | 'free' | 'renew'>

export class Batcher implements AsyncDisposable {
  /** Under way, by slot, and waiting for one, in the order they came. */
  readonly #rows = new Map<number, Row>()
  readonly #waiting: Row[] = []
  /** Tokens that free slots still hold, the longest unused first. */
  readonly #kept = new Map<number, readonly number[]>()
  /** An op failed that was to write into the slots: nothing of any can be read until the decoder is renewed. */
  #broken = false
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
    // Who has left frees the slot after the step under way, before any other text can have it.
    const staying = [...this.#rows.values()].filter(row => !row.left).length
    return this.#closed || staying + this.waiting >= this.decoder.slots + this.queue
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

  /** Ends what is under way, without its last piece, waits until every slot is free, and empties them. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    for (const row of [...this.#rows.values(), ...this.#waiting]) this.#leave(row)
    await this.#running
    for (const slot of this.#kept.keys()) this.decoder.free(slot)
    this.#kept.clear()
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
      if (this.#broken) await this.#renew()
      while (this.#waiting.length > 0 && this.#rows.size < this.decoder.slots) this.#admit(this.#waiting.shift()!)
      if (this.#rows.size === 0) break
      const joining = [...this.#rows.values()].find(row => row.joining)
      const ready = [...this.#rows.values()].filter(row => !row.joining)
      // Both are enqueued at once, in this order.
      await Promise.all([joining && this.#prefill(joining), ready.length > 0 && this.#steps(ready)])
    }
    this.#running = undefined
  }

  /** Into the free slot that goes on best from here; else an empty one; else the longest unused. */
  #admit(row: Row): void {
    const empty = Array.from({ length: this.decoder.slots }, (_, slot) => slot).find(slot => !this.#rows.has(slot) && !this.#kept.has(slot))
    const [oldest] = this.#kept.keys()
    let slot = empty ?? oldest
    let most = 0
    for (const [other, tokens] of this.#kept) {
      const same = row.same(tokens)
      // Another conversation with the same first words is worth more whole.
      if (same <= Math.max(most, tokens.length / 2)) continue
      slot = other
      most = same
    }
    if (slot === undefined) throw new Error('no slot is free')
    const same = row.same(this.#kept.get(slot) ?? [])
    this.#kept.delete(slot)
    try {
      this.decoder.free(slot, same)
      row.into(slot, same)
      this.#rows.set(slot, row)
    } catch (error) {
      this.decoder.free(slot)
      row.refuse(error)
    }
  }

  /** Frees the slots of those that ended or left. Then they are told: who asks again at once finds the slot free. */
  #sweep(): void {
    for (const row of this.#rows.values()) {
      if (!row.left && !row.over) continue
      this.#rows.delete(row.slot)
      this.#kept.set(row.slot, row.held)
      if (row.failure !== undefined) {
        // How far it came is not known.
        this.decoder.free(row.slot)
        this.#kept.delete(row.slot)
      }
      row.close()
    }
  }

  /** Where not even that works, those who wait are told; whoever asks next has it tried again. */
  async #renew(): Promise<void> {
    this.#kept.clear()
    try {
      await this.decoder.renew()
      this.#broken = false
    } catch (error) {
      for (const row of this.#waiting.splice(0)) row.refuse(error)
    }
  }

  /** Slots share the tensors of keys and values: what fails for one has failed for all. */
  #break(error: unknown): void {
    this.#broken = true
    for (const row of this.#rows.values()) if (!row.over) row.fail(error)
  }

  async #prefill(row: Row): Promise<void> {
    const next = row.nextOfPrompt(piece)
    let id: number
    try {
      id = await this.decoder.pickAfter(row.slot, next, row.draw())
    } catch (error) {
      return this.#break(error)
    }
    if (!row.joining) await row.take(id).catch(error => row.fail(error))
  }

  /** Steps of these, until one of them is over or others are to be beside them. */
  async #steps(rows: readonly Row[]): Promise<void> {
    const under: Promise<Int32Array>[] = []
    const more = (first: boolean): void => {
      const next = this.decoder.pick(rows.map(row => ({ slot: row.slot, token: first ? row.token : undefined, ...row.draw() })))
      next.catch(() => {}) // told when its turn comes
      under.push(next)
    }
    try {
      more(true)
      while (under.length > 0) {
        while (under.length < ahead && this.#stays(rows, under.length)) more(false)
        const ids = await (under.shift() as Promise<Int32Array>)
        for (const row of rows) if (!row.over && !row.left) row.held.push(row.token)
        await Promise.all(rows.map((row, i) => row.take(ids[i]).catch(error => row.fail(error))))
      }
    } catch (error) {
      this.#break(error)
    }
    await Promise.allSettled(under)
  }

  /** Whether behind so many steps of these comes another of the same. */
  #stays(rows: readonly Row[], steps: number): boolean {
    const joins = this.#rows.size > rows.length || (this.#waiting.length > 0 && this.#rows.size < this.decoder.slots)
    return !joins && rows.every(row => row.goesOn(steps))
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
