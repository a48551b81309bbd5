/** Rows of a cache's slot: what is turned, what is kept and where, and attention that gives f32 of bf16. */
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { keepRowsReference } from '../../native/ops/keep-rows/reference.js'
import { testDevice } from '../helpers.js'
import { check, checkAll, gaussian, withTensors } from './devices.js'

const types = ['f32', 'bf16'] as const

t.test('keepRows: types, groups, heads of every size, a slot that is not the first', async t => {
  const capacity = 41
  for (const { heads, kvHeads, e, rows, before } of [
    { heads: 1, kvHeads: 1, e: 2, rows: 1, before: 0 },
    { heads: 6, kvHeads: 2, e: 18, rows: 7, before: 34 },
    { heads: 4, kvHeads: 4, e: 64, rows: 41, before: 0 },
  ]) {
    const [q, k, v] = [gaussian(rows * heads * e, 1), gaussian(rows * kvHeads * e, 2), gaussian(rows * kvHeads * e, 3)]
    const angles = gaussian((capacity * e) / 2, 4)
    const [cos, sin] = [angles.map(Math.cos), angles.map(Math.sin)]
    const [turned, key, value] = keepRowsReference([q, k, v], [cos, sin], { t: rows, before, heads, kvHeads })
    const slotted = (kept: Float64Array): Float64Array => {
      const all = new Float64Array(2 * capacity * kvHeads * e)
      all.set(kept, (capacity + before) * kvHeads * e)
      return all
    }
    for (const given of types)
      for (const kept of types)
        for (const dtype of types)
          await checkAll(
            t,
            JSON.stringify({ heads, kvHeads, e, rows, before, given, kept, dtype }),
            ops => {
              using keys = ops.zeros(kept, [2 * capacity, kvHeads * e])
              using values = ops.zeros(kept, [2 * capacity, kvHeads * e])
              return withTensors(
                ops,
                [
                  [q, [rows, heads * e]],
                  [k, [rows, kvHeads * e]],
                  [v, [rows, kvHeads * e]],
                  [cos, [capacity, e / 2]],
                  [sin, [capacity, e / 2]],
                ],
                (...[a, b, c, cosines, sines]) => {
                  using wq = ops.cast(a!, given)
                  using wk = ops.cast(b!, given)
                  using wv = ops.cast(c!, given)
                  const cache = { keys, values, cos: cosines!, sin: sines! }
                  const made = ops.keepRows(wq, wk, wv, cache, { heads, kvHeads, row: capacity, before, dtype })
                  using seenQ = made.q
                  using seenK = made.k
                  using seenV = made.v
                  return [seenQ, seenK, seenV, keys, values].map(x => ops.cast(x, 'f32'))
                },
              )
            },
            [turned, key, value, slotted(key), slotted(value)],
            [given, kept, dtype].includes('bf16') ? 3e-5 : 1e-13,
          )
  }
  const ops = await openBackend(testDevice)
  using x = ops.zeros('f32', [3, 8])
  using angles = ops.zeros('f32', [4, 4])
  const cache = { keys: x, values: x, cos: angles, sin: angles }
  const o = { heads: 1, kvHeads: 1, before: 0, dtype: 'f32' } as const
  t.throws(() => ops.keepRows(x, x, x, cache, { ...o, row: 1 }), {
    message: 'keepRows: 3 rows from 1 on do not fit into 3 rows of at most 4 positions',
  })
  t.throws(() => ops.keepRows(x, x, x, cache, { ...o, row: 0, before: 2 }), RangeError)
  t.throws(() => ops.keepRows(x, x, x, { ...cache, cos: x, sin: x }, { ...o, row: 0 }), TypeError)
})

t.test('attention of bf16 that gives f32: not rounded after its sums', async t => {
  const [heads, e, length] = [3, 40, 70]
  const shape = { heads, kvHeads: 1, length, scale: 0.2 }
  // Equal keys: a mean of values that bf16 holds, which it does not.
  const values = Float32Array.from({ length: length * e }, (_, i) => (Math.floor(i / e) % 2 ? 1 : 1.0078125))
  const expected = Float64Array.from({ length: length * heads * e }, (_, at) => {
    const rows = Math.floor(at / (heads * e)) + 1
    return 1 + (0.0078125 * Math.ceil(rows / 2)) / rows
  })
  const run = (dtype: 'f32' | 'bf16') => (ops: Awaited<ReturnType<typeof openBackend>>) => {
    using q = ops.zeros('bf16', [length, heads * e])
    using k = ops.zeros('bf16', [length, e])
    using v = ops.tensor(values, [length, e])
    using narrow = ops.cast(v, 'bf16')
    using out = ops.attention(q, k, narrow, { ...shape, dtype })
    return ops.cast(out, 'f32')
  }
  await check(t, 'f32', run('f32'), expected, 1e-7)
  await check(t, 'bf16', run('bf16'), expected, 2 ** -16)
  const ops = await openBackend(testDevice)
  using x = ops.zeros('f32', [2, 8])
  t.throws(() => ops.attention(x, x, x, { heads: 1, kvHeads: 1, length: 2, scale: 1, dtype: 'bf16' }), RangeError)
})
