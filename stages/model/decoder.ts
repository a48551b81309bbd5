/**
 * decoder: a model with all its weights open that takes tokens into slots, each a text of its own, and gives the logits of
 * what comes next. A prompt goes through the model at once; a step takes one token into each of several slots side by side.
 *
 * Rows of a step do not see each other: logits of a slot are those it would have alone, up to the rounding of products
 * whose sums depend on how many rows there are.
 */
import type { Program } from '../../native/device.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { KvCache } from './kv-cache.js'
import { OpenModel, type OpenModelOptions } from './open-model.js'
import type { Weights } from './quantized.js'

export interface DecoderOptions extends OpenModelOptions {
  /** Texts at a time. */
  readonly slots: number
  /** Capacity of each slot. */
  readonly positions: number
  /** What keys and values are kept in. Default: f32. */
  readonly cache?: 'f32' | 'bf16'
}

/** A recorded step of some rows: i32 [rows] each, overwritten before a run where it should hold something else; logits f32 [rows, vocab]. */
interface Step {
  readonly program: Program
  readonly tensors: {
    /** After a run: the likeliest, and the positions behind, so that a step can follow without the host. */
    readonly ids: Tensor
    readonly positions: Tensor
    readonly slots: Tensor
    readonly logits: Tensor
    /** The likeliest, i32 [rows]. */
    readonly best: Tensor
  }
  /** What slots and positions will hold when all that is enqueued has run, as far as that is known. */
  next: { readonly slots: readonly number[]; readonly positions: readonly number[] }
}

const unknown: Step['next'] = { slots: [], positions: [] }

/** Steps that are under way at once when nobody has to see a token before the next: the device need not wait for the host. */
const ahead = 2
/** Tokens of a prompt for which one op that turns, keeps and attends a row at a time takes less than nine that do it in blocks: a GPU waits for the host then. */
const fewRows = { cuda: 96, cpu: 0 }
/** Tokens of a prompt that go through the model at once: bounds the memory that a prompt takes. */
const chunk = 2048

export class Decoder implements Disposable {
  readonly #held: number[]
  readonly slots: number
  readonly positions: number

  readonly #cache: KvCache
  readonly #steps = new Map<number, Step>()

  private constructor(
    private readonly model: OpenModel,
    { slots, positions, cache = 'f32' }: DecoderOptions,
    private readonly ownsModel: boolean,
  ) {
    for (const [name, value] of Object.entries({ slots, positions }))
      if (!Number.isInteger(value) || value < 1) throw new RangeError(`${name} must be a whole number from 1, got ${value}`)
    this.slots = slots
    this.positions = positions
    this.#held = Array.from({ length: slots }, () => 0)
    this.#cache = new KvCache(model.ops, model.config, { slots, capacity: positions, dtype: cache, precision: model.precision })
  }

  /** Opens every weight. Raises PipeError as OpenModel.open does. */
  static async open(ops: Ops, weights: Weights, o: DecoderOptions): Promise<Decoder> {
    return new Decoder(await OpenModel.open(ops, weights, o), o, true)
  }

  /** Over a model that stays the caller's. */
  static over(model: OpenModel, o: Omit<DecoderOptions, keyof OpenModelOptions>): Decoder {
    return new Decoder(model, o, false)
  }

  /** Tokens that end a text. */
  get ends(): ReadonlySet<number> {
    return this.model.ends
  }

  /**
   * Tokens into a slot, after what it holds; logits f32 [vocab] of the last. Throws RangeError when there are none, a
   * token is no row of the vocabulary, or they do not fit.
   */
  async prefill(slot: number, ids: readonly number[]): Promise<Float32Array> {
    const { ops } = this.model
    if (ids.length === 0) throw new RangeError('a slot is given no token')
    this.#take(ids.map(token => ({ slot, token })))
    const before = this.held(slot) - ids.length
    let last: Tensor | undefined
    for (let i = 0; i < ids.length; i += chunk) {
      const part = ids.slice(i, i + chunk)
      const from = before + i
      using tokens = ops.tensor(Int32Array.from(part), [part.length])
      using slots = ops.tensor(new Int32Array(part.length).fill(slot), [part.length])
      using positions = ops.tensor(
        new Int32Array(part.length).map((_, j) => from + j),
        [part.length],
      )
      const attend =
        from === 0 && part.length > fewRows[ops.device.kind] ? this.#cache.first(slot, part.length) : this.#cache.at({ slots, positions })
      using x = this.model.stream(tokens, attend)
      last?.[Symbol.dispose]()
      last = ops.copy(x, { rows: [part.length - 1, part.length] })
    }
    if (last === undefined) throw new Error('a prompt has a last token')
    using x = last
    using logits = this.model.logits(x)
    return floats(await logits.read())
  }

  /** One token into each of these slots, side by side; their logits, in this order. Throws RangeError as prefill, and when a slot comes twice. */
  async step(tokens: readonly { readonly slot: number; readonly token: number }[]): Promise<Float32Array[]> {
    if (new Set(tokens.map(({ slot }) => slot)).size !== tokens.length) throw new RangeError('a step takes one token for a slot')
    if (tokens.length === 0) return []
    this.#take(tokens)
    const step = this.#recorded(tokens.length)
    this.#write(
      step.tensors.ids,
      tokens.map(({ token }) => token),
    )
    this.#run(
      step,
      tokens.map(({ slot }) => slot),
    )
    const all = floats(await this.#read(step, 'logits'))
    const { vocab } = this.model.config.sizes
    return tokens.map((_, i) => all.subarray(i * vocab, (i + 1) * vocab))
  }

  /**
   * `token` into the slot, then the likeliest of what follows (of equal ones the lowest id), `count` times: gives each, but
   * puts the last nowhere. The device goes on while one is read; whoever leaves early finds the slot as if it had stopped there.
   */
  async *greedy(slot: number, token: number, count: number): AsyncGenerator<number, void, undefined> {
    const before = this.held(slot)
    const most = Math.min(count, this.positions - before)
    if (most > 0) this.#write(this.#recorded(1).tensors.ids, [token])
    const reads: Promise<Uint8Array>[] = []
    let given = 0
    try {
      for (let made = 0; given < most; ) {
        for (; made < Math.min(most, given + ahead); made++) {
          this.#take([{ slot, token: made === 0 ? token : 0 }])
          const step = this.#recorded(1)
          this.#run(step, [slot])
          reads.push(this.#read(step, 'best'))
        }
        const [id] = new Int32Array((await (reads.shift() as Promise<Uint8Array>)).slice().buffer)
        given++
        yield id as number
      }
    } finally {
      await Promise.allSettled(reads)
      this.#held[slot] = before + given
    }
  }

  /** Positions that a slot has used. */
  held(slot: number): number {
    const held = this.#held[slot]
    if (held === undefined) throw new RangeError(`there is no slot ${slot}; there are ${this.slots}`)
    return held
  }

  /** What a step of so many rows runs as (Program.form). */
  form(rows: number): string {
    return this.#recorded(rows).program.form()
  }

  /** Forgets what the slot holds, from a position on if one is given. */
  free(slot: number, from = 0): void {
    this.#held[slot] = Math.min(from, this.held(slot))
  }

  [Symbol.dispose](): void {
    for (const { program, tensors } of this.#steps.values()) {
      program[Symbol.dispose]()
      for (const x of Object.values(tensors)) x[Symbol.dispose]()
    }
    this.#steps.clear()
    this.#cache[Symbol.dispose]()
    if (this.ownsModel) this.model[Symbol.dispose]()
  }

  /** A step of so many rows, recorded once: hundreds of ops that the host need not say again for every token. */
  #recorded(rows: number): Step {
    const known = this.#steps.get(rows)
    if (known !== undefined) return known
    const { ops } = this.model
    const [ids, slots, positions] = [0, 1, 2].map(() => ops.zeros('i32', [rows])) as [Tensor, Tensor, Tensor]
    const made: Tensor[] = []
    const program = ops.device.record(() => {
      using x = this.model.stream(ids, this.#cache.at({ slots, positions }))
      const logits = this.model.logits(x)
      const best = ops.argmax(logits)
      ops.advance(ids, positions, best)
      made.push(logits, best)
    })
    const [logits, best] = made as [Tensor, Tensor]
    const step: Step = { program, tensors: { ids, slots, positions, logits, best }, next: unknown }
    this.#steps.set(rows, step)
    return step
  }

  #write(into: Tensor, values: readonly number[]): void {
    this.model.ops.device.write(into, new Uint8Array(Int32Array.from(values).buffer))
  }

  /** Of slots whose rows were taken already. */
  #run(step: Step, slots: readonly number[]): void {
    const positions = slots.map(slot => this.held(slot) - 1)
    const isNext = (kind: 'slots' | 'positions', wanted: readonly number[]) => wanted.every((value, i) => value === step.next[kind][i])
    if (!isNext('slots', slots)) this.#write(step.tensors.slots, slots)
    if (!isNext('positions', positions)) this.#write(step.tensors.positions, positions)
    step.program.run()
    step.next = { slots, positions: positions.map(position => position + 1) }
  }

  /** A result of the last run. Where that failed, nobody knows how far it came. */
  async #read(step: Step, result: 'logits' | 'best'): Promise<Uint8Array> {
    try {
      return await step.tensors[result].read()
    } catch (error) {
      step.next = unknown
      throw error
    }
  }

  /** Checks tokens and counts them as held; all or none. */
  #take(tokens: readonly { slot: number; token: number }[]): void {
    const { vocab } = this.model.config.sizes
    const more = new Map<number, number>()
    for (const { slot, token } of tokens) {
      if (!Number.isInteger(token) || token < 0 || token >= vocab) throw new RangeError(`token ${token} is none of ${vocab}`)
      more.set(slot, (more.get(slot) ?? this.held(slot)) + 1)
    }
    for (const [slot, held] of more)
      if (held > this.positions)
        throw new RangeError(`${held - this.held(slot)} more tokens do not fit beside ${this.held(slot)} into ${this.positions} positions`)
    for (const [slot, held] of more) this.#held[slot] = held
  }
}

const floats = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
