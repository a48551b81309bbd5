import type { Device } from '../../device.js'
import { expectHeads, expectMatrix, expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import type { AttendCache } from '../attend-cache/attend-cache.js'

export interface KeepFirstOptions {
  heads: number
  kvHeads: number
  /** Row of the cache where the slot begins. */
  row: number
  /** Of what attention is to read. */
  dtype: 'f32' | 'bf16'
}

/**
 * Rotary embedding and keeping of the first rows of a slot: q [t, heads·e], k and v [t, kvHeads·e], f32 or bf16, not turned, at positions 0 … t−1
 * → R·q, R·k and v as attention reads them. Keys and values, f32 or bf16 [rows, kvHeads·e], hold R·k and v from `row` on.
 */
export const keepFirst =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, { keys, values, cos, sin }: AttendCache, o: KeepFirstOptions): { q: Tensor; k: Tensor; v: Tensor } => {
    const { heads, kvHeads, row, dtype } = o
    const { t, e } = expectHeads('keepFirst', q, ['f32', 'bf16'], o)
    if (e % 2 !== 0) throw new RangeError(`keepFirst: a head must have an even number of elements, got ${e}`)
    expectMatrix('keepFirst', 'k', k, [q.dtype], [t, kvHeads * e])
    expectMatrix('keepFirst', 'v', v, [q.dtype], k.shape)
    const [length] = expectMatrix('keepFirst', 'cos', cos, ['f32'], [undefined, e / 2])
    expectTensor('keepFirst', 'sin', sin, ['f32'], cos.shape)
    const [held] = expectMatrix('keepFirst', 'keys', keys, ['f32', 'bf16'], [undefined, kvHeads * e])
    expectMatrix('keepFirst', 'values', values, [keys.dtype], keys.shape)
    expectWhole('keepFirst', 'row', row, 0)
    if (t > length || row + t > held)
      throw new RangeError(`keepFirst: ${t} rows from ${row} on do not fit into ${held} rows of at most ${length} positions`)
    const [turnedQ, seenK, seenV] = [device.empty(dtype, q.shape), device.empty(dtype, k.shape), device.empty(dtype, v.shape)]
    const types = { givenBf16: q.dtype === 'bf16', keptBf16: keys.dtype === 'bf16', seenBf16: dtype === 'bf16' }
    device.run('keep_first', { q, k, v, cos, sin, keys, values, turnedQ, seenK, seenV, t, heads, kvHeads, half: e / 2, row, ...types })
    return { q: turnedQ, k: seenK, v: seenV }
  }
