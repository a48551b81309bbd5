/** Attention of new rows over a cache: against the definition, and what it keeps. */
import t from 'tap'
import { openBackend } from '../../native/index.js'
import { attendCacheReference } from '../../native/ops/attend-cache/reference.js'
import { testDevice } from '../helpers.js'
import { affordable, check, gaussian, values, withTensors } from './devices.js'

t.test('attendCache: slots, positions, groups, windows, several rows, heads of every size', async t => {
  // Rows of `rows`: [slot, position]. What a slot holds below its first row is random; what is above must not be read.
  const one = (position: number) => [[0, position]] as const
  const run = (slot: number, from: number, count: number) => Array.from({ length: count }, (_, i) => [slot, from + i] as const)
  const cases = [
    { rows: one(0), slots: 1, capacity: 1, heads: 1, kvHeads: 1, e: 2 },
    { rows: one(31), slots: 1, capacity: 40, heads: 4, kvHeads: 2, e: 8 },
    { rows: run(0, 290, 3), slots: 1, capacity: 300, heads: 8, kvHeads: 2, e: 64 },
    { rows: run(1, 0, 5), slots: 2, capacity: 9, heads: 3, kvHeads: 1, e: 18 },
    { rows: one(612), slots: 1, capacity: 700, heads: 2, kvHeads: 2, e: 128 },
    { rows: run(0, 60, 2), slots: 1, capacity: 100, heads: 2, kvHeads: 1, e: 20, window: 1 },
    { rows: run(0, 20, 40), slots: 1, capacity: 64, heads: 2, kvHeads: 1, e: 34, window: 37 },
    // Around where a GPU cuts keys into one more part, and all the ways it tells heads that share keys apart.
    { rows: one(1023), slots: 1, capacity: 1030, heads: 2, kvHeads: 1, e: 64 },
    { rows: one(1024), slots: 1, capacity: 1030, heads: 3, kvHeads: 1, e: 64 },
    { rows: one(1029), slots: 1, capacity: 1030, heads: 7, kvHeads: 1, e: 128, window: 1026 },
    { rows: one(33), slots: 1, capacity: 40, heads: 12, kvHeads: 1, e: 128 },
    { rows: [...run(1, 30, 3), ...run(0, 7, 1), ...run(1, 29, 1)], slots: 2, capacity: 40, heads: 4, kvHeads: 2, e: 128, window: 5 },
    { rows: one(9), slots: 1, capacity: 10, heads: 2, kvHeads: 1, e: 160 },
    {
      rows: [...run(2, 17, 1), ...run(0, 130, 1), ...run(1, 0, 1), ...run(3, 64, 2)],
      slots: 4,
      capacity: 131,
      heads: 4,
      kvHeads: 2,
      e: 32,
    },
    // More pieces of keys than a CPU makes of a row, and more rows than it has at once.
    { rows: one(2300), slots: 1, capacity: 2310, heads: 3, kvHeads: 3, e: 24 },
    { rows: run(0, 600, 7), slots: 1, capacity: 610, heads: 16, kvHeads: 4, e: 128 },
    // So many rows and heads that a GPU has one block for each.
    { rows: [...run(0, 20, 6), ...run(1, 3, 6)], slots: 2, capacity: 26, heads: 36, kvHeads: 36, e: 8 },
    { rows: [...run(0, 20, 8), ...run(1, 3, 8)], slots: 2, capacity: 28, heads: 32, kvHeads: 32, e: 64 },
  ]
  for (const { rows, slots, ...shape } of affordable(cases, ({ rows, capacity, heads, e }) => (rows.length * capacity * heads * e) / 20))
    for (const bf16 of [false, true]) {
      const { capacity, heads, kvHeads, e } = shape
      const [q, k, v] = [
        gaussian(rows.length * heads * e, 1),
        gaussian(rows.length * kvHeads * e, 2),
        gaussian(rows.length * kvHeads * e, 3),
      ]
      // Values that bf16 holds, so that only rounding of new rows differs.
      const held = (seed: number) =>
        new Float32Array(Int32Array.from(new Int32Array(gaussian(slots * capacity * kvHeads * e, seed).buffer), x => x & -65536).buffer)
      const [keys, values] = [held(4), held(5)]
      for (let s = 0; s < slots; s++) {
        const end = Math.max(-1, ...rows.flatMap(([slot, position]) => (slot === s ? [position] : []))) + 1
        for (const x of [keys, values]) x.fill(Number.NaN, (s * capacity + end) * kvHeads * e, (s + 1) * capacity * kvHeads * e)
      }
      const angles = gaussian((capacity * e) / 2, 6)
      const [cos, sin] = [angles.map(Math.cos), angles.map(Math.sin)]
      const where = { slots: Int32Array.from(rows, ([slot]) => slot), positions: Int32Array.from(rows, ([, position]) => position) }
      const scale = 1 / Math.sqrt(e)
      const kept = { keys: Float64Array.from(keys), values: Float64Array.from(values), cos, sin }
      const expected = attendCacheReference({ q, k, v, ...where }, kept, { ...shape, scale })
      const dtype = bf16 ? 'bf16' : 'f32'
      await check(
        t,
        `${rows.length} rows ${JSON.stringify({ slots, ...shape, dtype })}`,
        ops =>
          withTensors(
            ops,
            [
              [q, [rows.length, heads * e]],
              [k, [rows.length, kvHeads * e]],
              [v, [rows.length, kvHeads * e]],
              [where.slots, [rows.length]],
              [where.positions, [rows.length]],
              [cos, [capacity, e / 2]],
              [sin, [capacity, e / 2]],
              [keys, [slots * capacity, kvHeads * e]],
              [values, [slots * capacity, kvHeads * e]],
            ],
            (a, b, c, d, p, cosines, sines, oldKeys, oldValues) => {
              using keys = ops.cast(oldKeys!, dtype)
              using values = ops.cast(oldValues!, dtype)
              const cache = { keys, values, cos: cosines!, sin: sines! }
              using first = ops.attendCache(a!, b!, c!, { slots: d!, positions: p! }, cache, { ...shape, scale })
              // Once more: what was kept is what is kept again.
              using again = ops.attendCache(a!, b!, c!, { slots: d!, positions: p! }, cache, { ...shape, scale })
              return ops.concat([first, again])
            },
          ),
        Float64Array.from([...expected, ...expected]),
        bf16 ? 1e-5 : 1e-12,
      )
    }
  const ops = await openBackend(testDevice)
  using x = ops.zeros('f32', [2, 8])
  using cos = ops.zeros('f32', [3, 4])
  using at = ops.zeros('i32', [2])
  const cache = { keys: x, values: x, cos, sin: cos }
  t.throws(() => ops.attendCache(x, x, x, { slots: at, positions: at }, cache, { heads: 1, kvHeads: 1, scale: 1 }), {
    message: 'attendCache: 2 rows are no slots of 3 positions',
  })
  t.throws(() => ops.attendCache(x, x, x, { slots: at, positions: at }, cache, { heads: 3, kvHeads: 1, scale: 1 }), {
    message: 'attendCache: 8 columns, 3 heads, 1 of keys do not divide',
  })
})

t.test('attendCache: a slot or a position that the cache does not have', async t => {
  const ops = await openBackend(testDevice)
  using x = ops.tensor(gaussian(4 * 8, 1), [4, 8])
  using angles = ops.zeros('f32', [3, 4])
  using slots = ops.tensor(Int32Array.of(0, 2, 1, 1), [4])
  using positions = ops.tensor(Int32Array.of(2, 0, 3, 1), [4])
  using keys = ops.zeros('f32', [6, 8])
  using kept = ops.zeros('f32', [6, 8])
  using out = ops.attendCache(
    x,
    x,
    x,
    { slots, positions },
    { keys, values: kept, cos: angles, sin: angles },
    { heads: 1, kvHeads: 1, scale: 1 },
  )
  if (testDevice === 'cpu') return t.rejects(out.read(), { message: /row 1 is in slot 2, and the cache has 2/ })
  // A GPU would have to wait to see it: these rows are NaN, the others what they are alone, and nothing else is kept.
  const rows = await values(out)
  const lost = Array.from({ length: 4 }, (_, i) => rows.subarray(i * 8, i * 8 + 8).every(Number.isNaN))
  t.strictSame(lost, [false, true, true, false])
  const held = await values(kept)
  const isHeld = Array.from({ length: 6 }, (_, p) => held.subarray(p * 8, p * 8 + 8).some(value => value !== 0))
  t.strictSame(isHeld, [false, false, true, false, true, false])
})
