/**
 * kv-cache: the turned keys and the values of every token of some sequences, each in a slot, so that a step computes its
 * new rows alone.
 *
 *   bytes = 2 · layers · slots · capacity · g · e · (4 in f32, 2 in bf16)      made at once
 *
 * A sliding window limits what is read, not what is kept. Vaswani et al. (arXiv:1706.03762), section 3.2.1; the cache as
 * in Shazeer (arXiv:1911.02150), section 2.3.
 */
import type { DeviceFailure } from '../../native/device.js'
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import { PipeError } from '../../pipeline/define.js'
import type { ModelConfig } from './config.js'
import type { Attend } from './attention.js'
import { Rotary } from './forward.js'
import type { Precision } from './precision.js'

export interface KvCacheOptions {
  readonly slots: number
  /** Positions of each slot. */
  readonly capacity: number
  readonly dtype: 'f32' | 'bf16'
  /** What whole sequences of f32 rows see each other in; in bf16 the scores and sums stay f32. */
  readonly precision: Precision
}

type CacheShape = Pick<KvCacheOptions, 'slots' | 'capacity' | 'dtype'>

/** Bytes of keys and values: 2·layers·slots·capacity·g·e elements. */
export const cacheBytes = ({ sizes: { layers, g, e } }: ModelConfig, { slots, capacity, dtype }: CacheShape): number =>
  2 * layers * slots * capacity * g * e * (dtype === 'bf16' ? 2 : 4)

/** Raises PipeError where a cache would take more than so many bytes (default: any). */
export function expectRoom(where: string, config: ModelConfig, shape: CacheShape, hint: string, free = Number.POSITIVE_INFINITY): void {
  if (cacheBytes(config, shape) <= free) return
  throw new PipeError('memory', { where, message: `${taken(config, shape)}; ${gigabytes(free)} are free.`, hint: halved(hint) })
}

/** What an error comes to while weights and such a cache are made on a device: a PipeError where its memory was out, else itself. */
export function noRoom(where: string, config: ModelConfig, shape: CacheShape, hint: string, error: unknown): unknown {
  if ((error as { code?: unknown }).code !== ('ERR_DEVICE_MEMORY' satisfies DeviceFailure)) return error
  const message = `${taken(config, shape)}; the weights beside them leave less than that.`
  return new PipeError('memory', { where, message, hint: halved(hint) }, { cause: error })
}

const taken = (config: ModelConfig, shape: CacheShape): string =>
  `${shape.slots} × ${shape.capacity} positions of keys and values take ${gigabytes(cacheBytes(config, shape))}`
const gigabytes = (n: number): string => `${(n / 1e9).toFixed(1)} GB`
const halved = (hint: string): string => `${hint}, or --cache bf16 for half of it.`

export class KvCache implements Disposable {
  readonly #rotary: Rotary
  readonly #keys: readonly Tensor[]
  readonly #values: readonly Tensor[]

  constructor(
    private readonly ops: Ops,
    private readonly config: ModelConfig,
    private readonly o: KvCacheOptions,
  ) {
    const { layers, g, e } = config.sizes
    const rows = (): Tensor[] => Array.from({ length: layers }, () => ops.zeros(o.dtype, [o.slots * o.capacity, g * e]))
    this.#rotary = new Rotary(ops, config)
    this.#keys = rows()
    this.#values = rows()
  }

  /** Attention for rows that go on: i32 [t] each, the slot and the position of every row. */
  at(rows: { slots: Tensor; positions: Tensor }): Attend {
    const { ops } = this
    const { h: heads, g: kvHeads, e } = this.config.sizes
    const { cos, sin } = this.#rotary.of(this.o.capacity)
    return (layer, q, k, v) => {
      const [keys, values] = this.#of(layer)
      const o = { heads, kvHeads, window: this.config.windows[layer], scale: 1 / Math.sqrt(e) }
      if (q.dtype === 'f32') return ops.attendCache(q, k, v, rows, { keys, values, cos, sin }, o)
      using wq = ops.cast(q, 'f32')
      using wk = ops.cast(k, 'f32')
      using wv = ops.cast(v, 'f32')
      using out = ops.attendCache(wq, wk, wv, rows, { keys, values, cos, sin }, o)
      return ops.cast(out, q.dtype)
    }
  }

  /** The same for rows that follow each other in one slot, after so many: there is an op that works on blocks of queries. */
  after(before: number, slot: number, length: number): Attend {
    const { ops } = this
    const { h: heads, g: kvHeads, e } = this.config.sizes
    const { capacity, precision } = this.o
    const { cos, sin } = this.#rotary.of(capacity)
    const row = slot * capacity
    return (layer, q, k, v) => {
      const [keys, values] = this.#of(layer)
      const seen = ops.keepRows(q, k, v, { keys, values, cos, sin }, { heads, kvHeads, row, before, dtype: precision })
      using turned = seen.q
      using key = seen.k
      using value = seen.v
      const how = { heads, kvHeads, length, window: this.config.windows[layer], scale: 1 / Math.sqrt(e), dtype: q.dtype as Precision }
      if (before === 0) return ops.attention(turned, key, value, how)
      if (keys.dtype === precision) return ops.attention(turned, keys, values, { ...how, after: { row, before } })
      using allKeys = ops.cast(keys, precision, [row, row + before + length])
      using allValues = ops.cast(values, precision, [row, row + before + length])
      return ops.attention(turned, allKeys, allValues, { ...how, after: { row: 0, before } })
    }
  }

  #of(layer: number): readonly [Tensor, Tensor] {
    const [keys, values] = [this.#keys[layer], this.#values[layer]]
    if (keys === undefined || values === undefined) throw new Error(`the cache has no layer ${layer}`)
    return [keys, values]
  }

  [Symbol.dispose](): void {
    this.#rotary[Symbol.dispose]()
    for (const tensor of [...this.#keys, ...this.#values]) tensor[Symbol.dispose]()
  }
}
