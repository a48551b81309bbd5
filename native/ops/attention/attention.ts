import type { Device } from '../../device.js'
import { expectHeads, expectMatrix, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'

export interface AttentionOptions {
  heads: number
  kvHeads: number
  length: number
  window?: number
  scale: number
}

/** Checks the inputs of attention and of its way back; gives the arguments that both ops have in common. */
export const expectAttention = (op: string, q: Tensor, k: Tensor, v: Tensor, o: AttentionOptions, after?: Before) => {
  const { heads, kvHeads, length, window = 0, scale } = o
  const { t, e } = expectHeads(op, q, ['f32', 'bf16'], o)
  expectWhole(op, 'length', length, 1)
  if (t % length !== 0) throw new RangeError(`${op}: ${t} rows are no whole number of sequences of ${length}`)
  const [rows] = expectMatrix(op, 'k', k, [q.dtype], [after ? undefined : t, kvHeads * e])
  expectMatrix(op, 'v', v, [q.dtype], k.shape)
  if (after) {
    const { row, before } = after
    expectWhole(op, 'row', row, 0)
    expectWhole(op, 'before', before, 0)
    if (t !== length) throw new RangeError(`${op}: one sequence can go on after rows, not ${t / length}`)
    if (row + before + t > rows) throw new RangeError(`${op}: ${t} rows after ${before} from ${row} on are more than the ${rows} of k and v`)
  }
  return { q, k, v, t, heads, kvHeads, e, length, window, scale, bf16: q.dtype === 'bf16' }
}

export interface Before {
  /** Where keys and values begin in k and v. */
  row: number
  /** How many there are before the first query's own. */
  before: number
}

/**
 * Causal attention within sequences of `length` rows; q [t, heads·e], k and v [t, kvHeads·e] → [t, heads·e], all f32 or all bf16, or
 * f32 of bf16 (dtype); window: keys at a distance below it only. after: q goes on after rows of one sequence, whose keys and values, q's
 * own among them, stand in k and v, as in a cache: [at least row + before + t, kvHeads·e].
 */
export const attention =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, o: AttentionOptions & { dtype?: 'f32' | 'bf16'; after?: Before }): Tensor => {
    const { dtype = q.dtype, after } = o
    const args = expectAttention('attention', q, k, v, o, after)
    if (dtype !== q.dtype && dtype !== 'f32') throw new RangeError('attention: what it gives of f32 is f32')
    const out = device.empty(dtype, q.shape)
    device.run('attention', { ...args, row: after?.row ?? 0, before: after?.before ?? 0, out, wide: dtype === 'f32' })
    return out
  }
