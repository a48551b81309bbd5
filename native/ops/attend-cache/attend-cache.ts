import type { Device } from '../../device.js'
import { expectHeads, expectMatrix, expectWhole } from '../../expect.js'
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
    const { t, e } = expectHeads('attendCache', q, ['f32'], o)
    expectWhole('attendCache', 'start', start, 0)
    const [capacity] = expectMatrix('attendCache', 'k', k, ['f32'], [undefined, kvHeads * e])
    expectMatrix('attendCache', 'v', v, ['f32'], k.shape)
    if (start + t > capacity) throw new RangeError(`attendCache: rows ${start}…${start + t} do not fit into a cache of ${capacity}`)
    const out = device.empty('f32', q.shape)
    device.run('attend_cache', { q, k, v, out, t, heads, kvHeads, e, start, window, scale })
    return out
  }
