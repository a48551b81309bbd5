/**
 * kv-cache: the turned keys and the values of every token of one sequence, so that a step computes its new rows alone.
 *
 *   bytes = 8 · layers · capacity · g · e      f32, made at once
 *
 * A sliding window limits what is read, not what is kept. Vaswani et al. (arXiv:1706.03762), section 3.2.1; the cache as
 * in Shazeer (arXiv:1911.02150), section 2.3.
 */
import type { Ops } from '../../native/ops.js'
import type { Tensor } from '../../native/tensor.js'
import type { ModelConfig } from './config.js'
import { type Attend, Rotary } from './forward.js'

export class KvCache implements Disposable {
  readonly #rotary: Rotary
  readonly #keys: readonly Tensor[]
  readonly #values: readonly Tensor[]
  #length = 0

  /** Room for `capacity` tokens. */
  constructor(
    private readonly ops: Ops,
    private readonly config: ModelConfig,
    readonly capacity: number,
  ) {
    const { layers, g, e } = config.sizes
    const rows = (): Tensor[] => Array.from({ length: layers }, () => ops.zeros('f32', [capacity, g * e]))
    this.#rotary = new Rotary(ops, config)
    this.#keys = rows()
    this.#values = rows()
  }

  /** Tokens it holds: the position of the next. */
  get length(): number {
    return this.#length
  }

  /** Adds `count` tokens: `blocks` runs every block with the attention it is given. Throws RangeError when they do not fit. */
  extend<T>(count: number, blocks: (attend: Attend) => T): T {
    const start = this.#length
    if (start + count > this.capacity) throw new RangeError(`${count} more tokens do not fit beside ${start} into ${this.capacity}`)
    const all = this.#rotary.of(this.capacity, 1)
    using cos = this.ops.copy(all.cos, { rows: [start, start + count] })
    using sin = this.ops.copy(all.sin, { rows: [start, start + count] })
    const result = blocks((layer, q, k, v) => this.#attend(layer, start, cos, sin, q, k, v))
    this.#length += count
    return result
  }

  #attend(layer: number, start: number, cos: Tensor, sin: Tensor, q: Tensor, k: Tensor, v: Tensor): Tensor {
    const { ops } = this
    const { h: heads, g: kvHeads, e } = this.config.sizes
    const [keys, values] = [this.#keys[layer], this.#values[layer]]
    if (keys === undefined || values === undefined) throw new Error(`the cache has no layer ${layer}`)
    using turned = ops.rope(q, cos, sin, undefined, { heads })
    using key = ops.rope(k, cos, sin, undefined, { heads: kvHeads })
    ops.paste(keys, key, { row: start })
    ops.paste(values, v, { row: start })
    const o = { heads, kvHeads, window: this.config.windows[layer], scale: 1 / Math.sqrt(e) }
    // A first run of rows is a whole sequence, for which there is an op that works on blocks of queries.
    if (start === 0) return ops.attention(turned, key, v, { ...o, length: q.shape[0] ?? 0 })
    return ops.attendCache(turned, keys, values, { ...o, start })
  }

  [Symbol.dispose](): void {
    this.#rotary[Symbol.dispose]()
    for (const tensor of [...this.#keys, ...this.#values]) tensor[Symbol.dispose]()
  }
}
