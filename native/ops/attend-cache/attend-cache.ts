import type { Device } from '../../device.js'
import { expectMatrix, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

export interface AttendCacheOptions {
  heads: number
  kvHeads: number
  /** Position of the first row of q. */
  start: number
  window?: number
  scale: number
}

/**
 * Causal attention of the rows at positions start … start + t − 1 over a cache whose row j is at position j; q f32
 * [t, heads·e], k and v f32 [capacity, kvHeads·e] → f32 [t, heads·e]; window: keys at a distance below it only.
 */
export const attendCache =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, o: AttendCacheOptions): Tensor => {
    const { heads, kvHeads, start, window = 0, scale } = o
    expectWhole('attendCache', 'kvHeads', kvHeads, 1)
    expectWhole('attendCache', 'heads', heads, kvHeads)
    expectWhole('attendCache', 'start', start, 0)
    if (o.window !== undefined) expectWhole('attendCache', 'window', o.window, 1)
    const [t, n] = expectMatrix('attendCache', 'q', q, ['f32'])
    const e = n / heads
    if (!Number.isInteger(e) || heads % kvHeads !== 0)
      throw new RangeError(`attendCache: ${n} columns, ${heads} heads, ${kvHeads} of keys do not divide`)
    const [capacity] = expectMatrix('attendCache', 'k', k, ['f32'], [undefined, kvHeads * e])
    expectMatrix('attendCache', 'v', v, ['f32'], k.shape)
    if (start + t > capacity) throw new RangeError(`attendCache: rows ${start}…${start + t} do not fit into a cache of ${capacity}`)
    const out = device.empty('f32', q.shape)
    device.run('attend_cache', { q, k, v, out, t, heads, kvHeads, e, start, window, scale })
    return out
  }
