import type { Device } from '../../device.js'
import { expectHeads, expectMatrix, expectTensor } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

/** What a cache holds of some sequences, each in a slot, and the angles of its positions. */
export interface AttendCache {
  /** f32 or bf16 [slots·capacity, kvHeads·e]; changed. */
  keys: Tensor
  values: Tensor
  /** f32 [capacity, e/2] */
  cos: Tensor
  sin: Tensor
}

export interface AttendCacheOptions {
  heads: number
  kvHeads: number
  window?: number
  scale: number
}

/**
 * Rotary embedding, keeping and causal attention of new rows: q f32 [t, heads·e], k and v f32 [t, kvHeads·e], not turned;
 * slots and positions i32 [t] say where each row goes in the cache and so what it sees: rows of its slot up to itself
 * (window: at a distance below it only) → f32 [t, heads·e]. A slot or position that the cache does not have fails the
 * queue; on a GPU its row is NaN.
 */
export const attendCache =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, rows: { slots: Tensor; positions: Tensor }, cache: AttendCache, o: AttendCacheOptions): Tensor => {
    const { heads, kvHeads, window = 0, scale } = o
    const { keys, values, cos, sin } = cache
    const { slots, positions } = rows
    const { t, e } = expectHeads('attendCache', q, ['f32'], o)
    if (e % 2 !== 0) throw new RangeError(`attendCache: a head must have an even number of elements, got ${e}`)
    expectMatrix('attendCache', 'k', k, ['f32'], [t, kvHeads * e])
    expectMatrix('attendCache', 'v', v, ['f32'], k.shape)
    const [capacity] = expectMatrix('attendCache', 'cos', cos, ['f32'], [undefined, e / 2])
    expectTensor('attendCache', 'sin', sin, ['f32'], cos.shape)
    for (const [name, x] of Object.entries(rows)) expectTensor('attendCache', name, x, ['i32'], [t])
    const [held] = expectMatrix('attendCache', 'keys', keys, ['f32', 'bf16'], [undefined, kvHeads * e])
    expectMatrix('attendCache', 'values', values, [keys.dtype], keys.shape)
    const count = held / capacity
    if (!Number.isInteger(count)) throw new RangeError(`attendCache: ${held} rows are no slots of ${capacity} positions`)
    const out = device.empty('f32', q.shape)
    device.run('attend_cache', {
      q,
      k,
      v,
      cos,
      sin,
      slots,
      positions,
      keys,
      values,
      out,
      t,
      heads,
      kvHeads,
      e,
      count,
      capacity,
      window,
      scale,
      bf16: keys.dtype === 'bf16',
    })
    return out
  }
