import type { Device } from '../../device.js'
import { expectHeads, expectMatrix, expectTensor, expectWhole } from '../../expect.js'
import type { Tensor } from '../../tensor.js'
import type { AttendCache } from '../attend-cache/attend-cache.js'

export interface KeepRowsOptions {
  heads: number
  kvHeads: number
  /** Row of the cache where the slot begins. */
  row: number
  /** Position of the first: what the slot holds before it. */
  before: number
  /** Of what attention is to read. */
  dtype: 'f32' | 'bf16'
}

/**
 * Rotary embedding and keeping of rows of a slot: q [t, heads·e], k and v [t, kvHeads·e], f32 or bf16, not turned, at positions from `before` on
 * → R·q, R·k and v as attention reads them. Keys and values, f32 or bf16 [rows, kvHeads·e], hold R·k and v from row + before on.
 */
export const keepRows =
  (device: Device) =>
  (q: Tensor, k: Tensor, v: Tensor, { keys, values, cos, sin }: AttendCache, o: KeepRowsOptions): { q: Tensor; k: Tensor; v: Tensor } => {
    const { heads, kvHeads, row, before, dtype } = o
    const { t, e } = expectHeads('keepRows', q, ['f32', 'bf16'], o)
    if (e % 2 !== 0) throw new RangeError(`keepRows: a head must have an even number of elements, got ${e}`)
    expectMatrix('keepRows', 'k', k, [q.dtype], [t, kvHeads * e])
    expectMatrix('keepRows', 'v', v, [q.dtype], k.shape)
    const [length] = expectMatrix('keepRows', 'cos', cos, ['f32'], [undefined, e / 2])
    expectTensor('keepRows', 'sin', sin, ['f32'], cos.shape)
    const [held] = expectMatrix('keepRows', 'keys', keys, ['f32', 'bf16'], [undefined, kvHeads * e])
    expectMatrix('keepRows', 'values', values, [keys.dtype], keys.shape)
    expectWhole('keepRows', 'row', row, 0)
    expectWhole('keepRows', 'before', before, 0)
    if (before + t > length || row + before + t > held)
      throw new RangeError(`keepRows: ${t} rows from ${row + before} on do not fit into ${held} rows of at most ${length} positions`)
    const [turnedQ, seenK, seenV] = [device.empty(dtype, q.shape), device.empty(dtype, k.shape), device.empty(dtype, v.shape)]
    const types = { givenBf16: q.dtype === 'bf16', keptBf16: keys.dtype === 'bf16', seenBf16: dtype === 'bf16' }
    device.run('keep_rows', { q, k, v, cos, sin, keys, values, turnedQ, seenK, seenV, t, heads, kvHeads, half: e / 2, row, before, ...types })
    return { q: turnedQ, k: seenK, v: seenV }
  }
