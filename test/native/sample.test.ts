/** The op that picks tokens: what each setting leaves, draws by the model's probabilities, and the definition's token always. */
import t from 'tap'
import { type DrawNumbers, sampleReference } from '../../native/ops/sample/reference.js'
import type { Ops } from '../../native/ops.js'
import { backends } from '../helpers.js'
import { affordable, gaussian, uniform, values } from './devices.js'

const none: ReadonlySet<number> = new Set()
const greedy: DrawNumbers = [1, 0, 0, 1, 0, 0]
const drawn = (o: { r?: number; T?: number; k?: number; p?: number; least?: number; u?: number } = {}): DrawNumbers => [
  o.r ?? 1,
  o.T ?? 1,
  o.k ?? 0,
  o.p ?? 1,
  o.least ?? 0,
  o.u ?? 0,
]

interface Row {
  readonly z: Float32Array
  readonly seen?: ReadonlySet<number>
  readonly how: DrawNumbers
}

/** Rows of one width, each with a slot of its own, the last the first; and which tokens are seen then. */
async function sample(ops: Ops, rows: readonly Row[]): Promise<{ ids: number[]; seen: Set<number>[] }> {
  const v = rows[0]!.z.length
  const [t, slotOf] = [rows.length, (i: number) => rows.length - 1 - i]
  const marks = new Uint8Array(t * v)
  for (const [i, { seen = none }] of rows.entries()) for (const id of seen) marks[slotOf(i) * v + id] = 1
  const all = new Float32Array(t * v)
  for (const [i, { z }] of rows.entries()) all.set(z, i * v)
  using logits = ops.tensor(all, [t, v])
  using how = ops.tensor(Float64Array.from(rows.flatMap(row => row.how)), [t, 6])
  using slots = ops.tensor(
    Int32Array.from(rows, (_, i) => slotOf(i)),
    [t],
  )
  using seen = ops.tensor(marks, [t, v])
  using out = ops.sample(logits, { how, slots, seen })
  const left = await values(seen)
  return {
    ids: [...(await values(out))],
    seen: rows.map((_, i) => new Set(Array.from({ length: v }, (_, id) => id).filter(id => left[slotOf(i) * v + id] === 1))),
  }
}

const settings = [
  greedy,
  drawn(),
  drawn({ k: 7 }),
  drawn({ k: 1 }),
  drawn({ k: 1e6 }),
  drawn({ p: 0.8 }),
  drawn({ p: 0 }),
  drawn({ least: 0.1 }),
  drawn({ least: 1 }),
  drawn({ k: 20, p: 0.9, least: 0.02 }),
  drawn({ r: 1.3, k: 40, p: 0.95 }),
]

/** Rows of a width, with what the definition says of them. */
function rowsOf(v: number): { rows: Row[]; wanted: number[] } {
  const next = uniform(v)
  const few = v < 500
  // Some are equal, or all: more than a kernel compares with each other.
  const kinds: Float32Array[] = [gaussian(v, v), gaussian(v, v + 1).map(x => 4 * Math.round(x))]
  if (v < 10_000) kinds.push(new Float32Array(v))
  if (few)
    kinds.push(
      gaussian(v, v + 2).map(x => 50 * x),
      gaussian(v, 9).fill(Number.NEGATIVE_INFINITY, 9, 12).fill(40, 17, 18),
    )
  const rows: Row[] = []
  for (const z of kinds)
    for (const [r, t, k, p, least] of few ? settings : settings.slice(v < 10_000 ? -5 : -2))
      for (const temperature of t === 0 ? [0] : few ? [0.1, 1, 30] : [0.7]) {
        const seen = new Set(Array.from({ length: 20 }, () => Math.floor(next() * v)))
        rows.push({ z, seen, how: [r, temperature, k, p, least, [0, 0.9999, next(), next()][rows.length % 4]!] })
      }
  return { rows, wanted: rows.map(({ z, seen, how }) => sampleReference(z, how[0] === 1 ? none : seen!, how)) }
}
const cases = affordable([1, 3, 100, 513, 5000, 33_000, 152_064] as const, v => v).map(v => ({ v, ...rowsOf(v) }))

for (const { name, skip, open } of backends)
  t.test(`${name}: the token of the definition, and what is seen then`, { skip }, async t => {
    const ops = await open()
    for (const { v, rows, wanted } of cases) {
      const { ids, seen } = await sample(ops, rows)
      t.strictSame(ids, wanted, `${v} logits`)
      for (const [i, row] of rows.entries()) {
        const after = new Set([...row.seen!, ...(row.how[0] === 1 ? [] : [wanted[i]!])])
        if (after.size !== seen[i]!.size || [...after].some(id => !seen[i]!.has(id))) t.fail(`${v} logits: seen of row ${i}`)
      }
      await ops.finish()
      t.equal(ops.device.liveBytes, 0)
    }
  })

for (const { name, skip, open } of backends) {
  t.test(`${name}: what is no number, and no slot`, { skip }, async t => {
    const ops = await open()
    const [minus, plus] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY]
    const rows = [
      [1, 3, 3, 2],
      [-1e30, minus, minus, minus],
      [1, Number.NaN, 2, 3],
      [plus, 1, 2, 3],
      [minus, minus, minus, minus],
      [-0, 0, -1, -1],
    ].map(z => Float32Array.from(z))
    for (const how of [greedy, drawn({ k: 1 })])
      t.strictSame(
        (
          await sample(
            ops,
            rows.map(z => ({ z, how })),
          )
        ).ids,
        [1, 0, -1, -1, -1, 0],
      )
    const wrong = [
      { r: 0 },
      { r: Number.NaN },
      { T: -1 },
      { T: plus },
      { T: Number.NaN },
      { k: -1 },
      { p: Number.NaN },
      { least: -1 },
      { u: 1 },
      { u: -1 },
    ]
    const rowsOfWrong = [...wrong, {}].map(o => ({ z: rows[0]!, how: drawn(o) }))
    t.strictSame((await sample(ops, rowsOfWrong)).ids, [...wrong.map(() => -1), 1], 'numbers out of range')
    using logits = ops.tensor(Float32Array.of(1, 2), [1, 2])
    using how = ops.tensor(Float64Array.from(greedy), [1, 6])
    using slots = ops.tensor(Int32Array.of(1), [1])
    using seen = ops.zeros('u8', [1, 2])
    using out = ops.sample(logits, { how, slots, seen })
    t.strictSame([...(await values(out))], [-1], 'slot 1 of 1')
    t.throws(() => ops.sample(logits, { how: slots, slots, seen }), { name: 'TypeError', message: /how must be f64 \[1, 6\]/ })
    using wide = ops.zeros('u8', [1, 3])
    t.throws(() => ops.sample(logits, { how, slots, seen: wide }), { message: /seen must be u8 \[\?, 2\]/ })
  })

  t.test(`${name}: shares of draws are p^(1/T) of what is left`, { skip }, async t => {
    const ops = await open()
    const p = [0.1, 0.4, 0.05, 0.25, 0.2]
    const z = Float32Array.from(p, Math.log)
    const next = uniform(1)
    const draw = async (o: Parameters<typeof drawn>[0], n = 2000): Promise<number[]> => {
      const { ids } = await sample(
        ops,
        Array.from({ length: n }, () => ({ z, how: drawn({ ...o, u: next() }) })),
      )
      return p.map((_, id) => ids.filter(one => one === id).length / n)
    }
    for (const T of [0.5, 1, 2]) {
      const powers = p.map(x => x ** (1 / T))
      const sum = powers.reduce((a, b) => a + b)
      const shares = await draw({ T })
      for (const [id, power] of powers.entries()) t.ok(Math.abs(shares[id]! - power / sum) < 0.04, `T=${T}, ${id}: ${shares[id]}`)
    }
    const left = async (o: Parameters<typeof drawn>[0]) => (await draw(o, 500)).flatMap((share, id) => (share > 0 ? [id] : []))
    t.strictSame(await left({ k: 3 }), [1, 3, 4])
    t.strictSame(await left({ p: 0.39 }), [1])
    t.strictSame(await left({ p: 0.66 }), [1, 3, 4])
    t.strictSame(await left({ least: 0.45 }), [1, 3, 4])
    t.strictSame(await left({ k: 3, p: 0.7 }), [1, 3], 'top-p is of what top-k left: 0.65 of 0.85')
    t.strictSame(await left({ k: 4, least: 0.2 }), [0, 1, 3, 4])
  })
}
