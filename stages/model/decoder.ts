/**
 * decoder: a model with all its weights open that takes tokens into slots, each a text of its own, and picks what comes next,
 * or gives its logits. A prompt goes through the model at once; a step takes one token into each of several slots side by side.
 * What is picked stays on the device, so that the next step can follow before the host has seen it.
 *
 * Rows of a step do not see each other: logits of a slot are those it would have alone, up to the rounding of products
 * whose sums depend on how many rows there are.
 */
import type { Program } from '../../native/device.js'
import type { Ops } from '../../native/ops.js'
import { numbersOfDraw } from '../../native/ops/sample/sample.js'
import type { Tensor } from '../../native/tensor.js'
import { KvCache } from './kv-cache.js'
import { OpenModel, type OpenModelOptions } from './open-model.js'
import type { Weights } from './quantized.js'
import { type Draw, likeliest, numbersOf } from './sampling.js'

export interface DecoderOptions extends OpenModelOptions {
  /** Texts at a time. */
  readonly slots: number
  /** Capacity of each slot. */
  readonly positions: number
  /** What keys and values are kept in. Default: f32. */
  readonly cache?: 'f32' | 'bf16'
}

/** A token into a slot, and how the one after it is picked. No token: the one that the step before picked for this slot. */
export interface StepRow extends Draw {
  readonly slot: number
  readonly token?: number | undefined
}

/**
 * A recorded step of some rows: i32 [rows] each, overwritten before a run where it should hold something else; how f64 [rows, 6],
 * logits f32 [rows, vocab].
 */
interface Step {
  readonly program: Program
  readonly tensors: {
    /** After a run: what was picked, and the positions behind, so that a step can follow without the host. */
    readonly ids: Tensor
    readonly positions: Tensor
    readonly slots: Tensor
    readonly how: Tensor
    readonly logits: Tensor
    readonly picked: Tensor
  }
  /** What `how` holds. */
  how: readonly number[]
  /** What slots and positions will hold when all that is enqueued has run, as far as that is known. */
  next: { readonly slots: readonly number[]; readonly positions: readonly number[] }
}

const unknown: Step['next'] = { slots: [], positions: [] }

/** Steps that are under way at once: the device need not wait for the host. */
export const ahead = 2
/**
 * Tokens up to which the op that does a row at a time takes no longer than those that do blocks (bench/attend.ts): a GPU waits for the host
 * then, and a CPU would move all keys for them.
 */
const fewRows = { cuda: 64, cpu: 8 }
/** Tokens of a prompt that go through the model at once: bounds the memory that a prompt takes. */
const chunk = 2048

export class Decoder implements Disposable {
  readonly #held: number[]
  readonly slots: number
  readonly positions: number

  #cache: KvCache
  /** Tokens that a slot's text has had, where its penalty asks: u8 [slots, vocab]. */
  #seen: Tensor
  readonly #steps = new Map<number, Step>()
  readonly #dtype: 'f32' | 'bf16'

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
    this.#dtype = cache
    this.#cache = this.#emptyCache()
    this.#seen = this.#noneSeen()
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
    using logits = this.#through(slot, ids)
    return floats(await logits.read())
  }

  /** The same, but for the token that follows in place of logits; −1 where they are no numbers. */
  async pickAfter(slot: number, ids: readonly number[], draw: Draw): Promise<number> {
    const { ops } = this.model
    using logits = this.#through(slot, ids)
    using how = ops.tensor(Float64Array.from(numbersOf(draw)), [1, numbersOfDraw])
    using slots = ops.tensor(Int32Array.of(slot), [1])
    using picked = ops.sample(logits, { how, slots, seen: this.#seen })
    return whole(await picked.read())[0] as number
  }

  /** Tokens that a slot's text has had, for draws with a repetition penalty: these and no others. What is picked with one is added. */
  remember(slot: number, ids: Iterable<number>): void {
    const { ops, config } = this.model
    const row = new Uint8Array(config.sizes.vocab)
    for (const id of ids) row[id] = 1
    using seen = ops.tensor(row, [1, row.length])
    ops.paste(this.#seen, seen, { row: slot })
  }

  /** One token into each of these slots, side by side; their logits, in this order. Throws RangeError as prefill, and when a slot comes twice. */
  async step(tokens: readonly { readonly slot: number; readonly token: number }[]): Promise<Float32Array[]> {
    if (tokens.length === 0) return []
    const all = floats(await this.#read(this.#enqueue(tokens.map(row => ({ ...row, ...likeliest }))), 'logits'))
    const { vocab } = this.model.config.sizes
    return tokens.map((_, i) => all.subarray(i * vocab, (i + 1) * vocab))
  }

  /**
   * One token into each of these slots, side by side, and what is picked to follow each, −1 where logits are no numbers. The
   * step is enqueued at once. All rows have a token, or none has: then it was the last step's slots, in this order. Rejects
   * with RangeError as step does.
   */
  async pick(rows: readonly StepRow[]): Promise<Int32Array> {
    if (rows.length === 0) return new Int32Array()
    return whole(await this.#read(this.#enqueue(rows), 'picked'))
  }

  /**
   * These tokens into their slots, then `count` times what is picked to follow: gives the tokens of each step in the order of
   * the rows, but puts the last nowhere. The device goes on while they are read; whoever leaves early finds the slots as if
   * they had stopped there.
   */
  async *picks(
    rows: readonly { readonly slot: number; readonly token: number }[],
    count: number,
    draw: (slot: number) => Draw = () => likeliest,
  ): AsyncGenerator<Int32Array, void, undefined> {
    const before = rows.map(({ slot }) => this.held(slot))
    const most = Math.min(count, this.positions - Math.max(0, ...before))
    const under: Promise<Int32Array>[] = []
    let given = 0
    try {
      for (let made = 0; given < most; ) {
        for (; made < Math.min(most, given + ahead); made++) {
          const next = this.pick(rows.map(({ slot, token }) => ({ slot, token: made === 0 ? token : undefined, ...draw(slot) })))
          next.catch(() => {}) // told when its turn comes
          under.push(next)
        }
        const ids = await (under.shift() as Promise<Int32Array>)
        given++
        yield ids
      }
    } finally {
      await Promise.allSettled(under)
      for (const [i, { slot }] of rows.entries()) this.#held[slot] = (before[i] as number) + given
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

  /**
   * All slots empty, and what they are kept in made anew: what an op that failed was to write into is never read again, and
   * that is keys and values of every slot. Nothing else may be under way. Rejects when there is no memory for them; then so
   * does all that is asked of any slot, until this has been called with success.
   */
  async renew(): Promise<void> {
    const { ops } = this.model
    await ops.finish().catch(() => {}) // told to those who waited for it
    this.#letGo()
    this.#held.fill(0)
    this.#cache = this.#emptyCache()
    this.#seen = this.#noneSeen()
    await ops.finish()
  }

  [Symbol.dispose](): void {
    this.#letGo()
    if (this.ownsModel) this.model[Symbol.dispose]()
  }

  #emptyCache(): KvCache {
    const { model, slots, positions: capacity } = this
    return new KvCache(model.ops, model.config, { slots, capacity, dtype: this.#dtype, precision: model.precision })
  }

  #noneSeen(): Tensor {
    return this.model.ops.zeros('u8', [this.slots, this.model.config.sizes.vocab])
  }

  /** Of all but the model. */
  #letGo(): void {
    for (const { program, tensors } of this.#steps.values()) {
      program[Symbol.dispose]()
      for (const x of Object.values(tensors)) x[Symbol.dispose]()
    }
    this.#steps.clear()
    this.#cache[Symbol.dispose]()
    this.#seen[Symbol.dispose]()
  }

  /** A step of so many rows, recorded once: hundreds of ops that the host need not say again for every token. */
  #recorded(rows: number): Step {
    const known = this.#steps.get(rows)
    if (known !== undefined) return known
    const { ops } = this.model
    const [ids, slots, positions] = [0, 1, 2].map(() => ops.zeros('i32', [rows])) as [Tensor, Tensor, Tensor]
    const how = ops.zeros('f64', [rows, numbersOfDraw])
    const made: Tensor[] = []
    const program = ops.device.record(() => {
      using x = this.model.stream(ids, this.#cache.at({ slots, positions }))
      const logits = this.model.logits(x)
      const picked = ops.sample(logits, { how, slots, seen: this.#seen })
      ops.advance(ids, positions, picked)
      made.push(logits, picked)
    })
    const [logits, picked] = made as [Tensor, Tensor]
    const step: Step = { program, tensors: { ids, slots, positions, how, logits, picked }, how: [], next: unknown }
    this.#steps.set(rows, step)
    return step
  }

  /** Tokens into a slot; f32 [1, vocab], the caller's: the logits of the last. */
  #through(slot: number, ids: readonly number[]): Tensor {
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
        part.length > fewRows[ops.device.kind] ? this.#cache.after(from, slot, part.length) : this.#cache.at({ slots, positions })
      using x = this.model.stream(tokens, attend)
      last?.[Symbol.dispose]()
      last = ops.copy(x, { rows: [part.length - 1, part.length] })
    }
    if (last === undefined) throw new Error('a prompt has a last token')
    using x = last
    return this.model.logits(x)
  }

  /** A step, and what it is told where that is not what it left or was told before. */
  #enqueue(rows: readonly StepRow[]): Step {
    const slots = rows.map(({ slot }) => slot)
    if (new Set(slots).size !== slots.length) throw new RangeError('a step takes one token for a slot')
    const step = this.#recorded(rows.length)
    const isNext = (kind: 'slots' | 'positions', wanted: readonly number[]) => wanted.every((value, i) => value === step.next[kind][i])
    const tokens = rows.flatMap(({ token }) => token ?? [])
    const follows =
      tokens.length === 0 &&
      isNext('slots', slots) &&
      isNext(
        'positions',
        slots.map(slot => this.held(slot)),
      )
    if (!follows && tokens.length < rows.length) throw new RangeError('a step without tokens goes on where one with the same slots ended')
    this.#take(rows.map(({ slot, token = 0 }) => ({ slot, token })))
    const positions = slots.map(slot => this.held(slot) - 1)
    if (!follows) this.#write(step.tensors.ids, Int32Array.from(tokens))
    if (!isNext('slots', slots)) this.#write(step.tensors.slots, Int32Array.from(slots))
    if (!isNext('positions', positions)) this.#write(step.tensors.positions, Int32Array.from(positions))
    const how = rows.flatMap(numbersOf)
    if (how.some((value, i) => value !== step.how[i])) this.#write(step.tensors.how, Float64Array.from(how))
    step.program.run()
    step.how = how
    step.next = { slots, positions: positions.map(position => position + 1) }
    return step
  }

  #write(into: Tensor, values: Int32Array | Float64Array): void {
    this.model.ops.device.write(into, new Uint8Array(values.buffer))
  }

  /** A result of the last run. Where that failed, nobody knows how far it came. */
  async #read(step: Step, result: 'logits' | 'picked'): Promise<Uint8Array> {
    try {
      return await step.tensors[result].read()
    } catch (error) {
      step.next = unknown
      step.how = []
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

const whole = (bytes: Uint8Array): Int32Array => new Int32Array(bytes.slice().buffer)
const floats = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
